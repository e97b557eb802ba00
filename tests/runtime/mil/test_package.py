"""runtime/engines/mil/package.py, weights.py, values.py, program.py: what a package has, and one sentence where it is damaged."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import BundleError, EngineError
from echoedge.runtime.engines.mil import Package
from echoedge.runtime.engines.mil.protos import generated

from .programs import drawn, saved

WEIGHT = drawn(16, 4)
OPS = {
    "hidden": lambda x: mb.linear(x=x, weight=WEIGHT, bias=drawn(16)),
    "out": lambda x: mb.reduce_mean(x=mb.relu(x=x), axes=[1]),
}
INPUTS = {"x": drawn(3, 4)}
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    saved(folder, OPS, INPUTS)
    return folder / "one.mlpackage"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy.mlpackage"))


def rewritten(package: Path, change: Callable[[Any], None]) -> Path:
    """The package with its program changed."""
    model = generated("Model_pb2").Model()
    model.ParseFromString((package / MODEL).read_bytes())
    change(model)
    (package / MODEL).write_bytes(model.SerializeToString())
    return package


def operations(model: Any) -> Any:
    return model.mlProgram.functions["main"].block_specializations["CoreML8"].operations


def operation(model: Any, name: str) -> Any:
    return next(each for each in operations(model) if any(output.name == name for output in each.outputs))


def test_what_a_package_says_of_itself(whole: Path) -> None:
    package = Package.open(whole)
    function = package.function()
    assert (package.specification, package.functions, package.default) == (9, ("main",), "main")
    assert {name: str(kind) for name, kind in function.inputs.items()} == {"x": "fp32 [3, 4]"}
    assert {name: str(kind) for name, kind in function.outputs.items()} == {"hidden": "fp32 [3, 16]", "out": "fp32 [3]"}
    assert {name: function.counts[name] for name in ("linear", "relu", "reduce_mean")} == {"linear": 1, "relu": 1, "reduce_mean": 1}
    assert package.weight_bytes == (whole / WEIGHTS).stat().st_size >= WEIGHT.nbytes
    assert function.states == {} == function.new_states()


def test_the_library_is_not_imported_to_run_a_package(whole: Path) -> None:
    """Its import takes ten seconds and writes to standard error."""
    script = (
        "import sys, numpy as np\nfrom echoedge.runtime.engines.mil import Package\n"
        f"y = Package.open({str(whole)!r}).function().run({{'x': np.ones((3, 4), np.float32)}})['hidden']\n"
        "print(y.shape, 'coremltools' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (ended.stdout.strip(), ended.stderr) == ("(3, 16) False", "")


def test_without_the_library_the_extra_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.runtime.engines.mil import protos

    monkeypatch.delitem(sys.modules, "coremltools.proto")
    monkeypatch.delitem(sys.modules, protos._ALONE, raising=False)
    monkeypatch.setattr(protos.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"needs coremltools.* pip install 'echoedge\[coreml\]'"):
        Package.open(whole)


def cut(file: str, keep: int) -> Callable[[Path], None]:
    return lambda package: (package / file).write_bytes((package / file).read_bytes()[:keep])


def patched(at: int, data: bytes) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        held = bytearray((package / WEIGHTS).read_bytes())
        held[at : at + len(data)] = data
        (package / WEIGHTS).write_bytes(held)

    return change


def manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        held = json.loads((package / "Manifest.json").read_text())
        change(held)
        (package / "Manifest.json").write_text(json.dumps(held))

    return run


def item(held: dict) -> dict:
    return held["itemInfoEntries"][held["rootModelIdentifier"]]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda package: (package / "Manifest.json").unlink(), "is not a Core ML package: it has no Manifest.json"),
        (lambda package: (package / "Manifest.json").write_text("{"), "names no program"),
        (manifest(lambda held: held.update(rootModelIdentifier="other")), "names no program"),
        (manifest(lambda held: item(held).update(path="../../../else")), "which is outside it: do not trust"),
        (lambda package: (package / MODEL).unlink(), "lacks its program Data/com.apple.CoreML/model.mlmodel"),
        (cut(MODEL, 300), "is damaged"),
        (lambda package: (package / MODEL).write_bytes(b""), "holds nothing, not an ML Program"),
        (lambda package: (package / WEIGHTS).unlink(), "@model_path/weights/weight.bin', which the package does not have"),
        (cut(WEIGHTS, 0), "cannot be read"),
        (cut(WEIGHTS, 20), "has 20 bytes, less than its header"),
        (cut(WEIGHTS, 460), "ends after the file of 460 bytes: the file is cut short"),
        (cut(WEIGHTS, 100), "which is no place of a blob in a file of 100 bytes"),
        (patched(4, struct.pack("<I", 9)), "is of version 9; only version 2 is read here"),
        (patched(64, b"\0\0\0\0"), "does not begin with the mark of a blob"),
        (patched(68, struct.pack("<I", 1)), "is fp32, and the blob at offset 64 of weight.bin says that it holds type number 1"),
        (patched(72, struct.pack("<Q", 12)), "needs 256 bytes, and the blob at offset 64 of weight.bin says 12"),
        (patched(80, struct.pack("<Q", 1 << 40)), "ends after the file"),
    ],
)
def test_a_damaged_file_is_one_sentence(copy: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(copy)
    with pytest.raises(BundleError) as error:
        Package.open(copy).function().run(INPUTS)
    assert told in str(error.value) and str(error.value).endswith(".")


def test_a_weight_outside_the_package_is_not_read(copy: Path) -> None:
    def change(model: Any) -> None:
        for each in operations(model):
            if each.type == "const" and each.attributes["val"].WhichOneof("value") == "blobFileValue":
                each.attributes["val"].blobFileValue.fileName = "@model_path/../../../secret"

    with pytest.raises(BundleError, match="which is outside the package: do not trust"):
        Package.open(rewritten(copy, change)).function().run(INPUTS)


def renamed(model: Any) -> None:
    operation(model, "hidden").type = "mystery"


def unbound(model: Any) -> None:
    operation(model, "hidden").inputs["x"].arguments[0].name = "nobody"


def surplus(model: Any) -> None:
    operation(model, "hidden").inputs["colour"].CopyFrom(operation(model, "hidden").inputs["x"])


def lacking(model: Any) -> None:
    del operation(model, "hidden").inputs["weight"]


def reshaped(model: Any) -> None:
    operation(model, "hidden").outputs[0].type.tensorType.dimensions[1].constant.size = 15


def retyped(model: Any) -> None:
    operation(model, "hidden").outputs[0].type.tensorType.dataType = 10  # fp16


def whole_numbers(model: Any) -> None:
    operation(model, "hidden").outputs[0].type.tensorType.dataType = 23  # int32


def other_set(model: Any) -> None:
    model.mlProgram.functions["main"].opset = "CoreML7"


def lost_output(model: Any) -> None:
    model.mlProgram.functions["main"].block_specializations["CoreML8"].outputs[0] = "nobody"


def two_results(model: Any) -> None:
    made = operation(model, "hidden").outputs.add()
    made.CopyFrom(operation(model, "hidden").outputs[0])
    made.name = "second"


def unknown_type(model: Any) -> None:
    operation(model, "hidden").outputs[0].type.tensorType.dataType = 13  # bfloat16


def shorter_constant(model: Any) -> None:
    bias = operation(model, operation(model, "hidden").inputs["bias"].arguments[0].name)
    bias.attributes["val"].type.tensorType.dimensions[0].constant.size = 15
    bias.outputs[0].type.tensorType.dimensions[0].constant.size = 15


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (renamed, EngineError, r"The operator mystery \(value 'hidden' in function 'main'\) is not known here"),
        (unbound, BundleError, "linear 'hidden' in function 'main' reads the value 'nobody', which nothing before it makes"),
        (surplus, EngineError, "linear 'hidden' in function 'main' cannot be run: it takes no colour; it takes x, weight, bias"),
        (lacking, EngineError, "linear 'hidden' in function 'main' cannot be run: it lacks weight"),
        (reshaped, EngineError, r"gives 'hidden' as fp32 \[3, 16\] where the file says fp32 \[3, 15\]"),
        (retyped, EngineError, r"gives 'hidden' as fp32 \[3, 16\] where the file says fp16 \[3, 16\]"),
        (whole_numbers, EngineError, r"gives 'hidden' as fp32 \[3, 16\] where the file says int32 \[3, 16\]"),
        (other_set, BundleError, "is for the operator set 'CoreML7', of which it has no block"),
        (lost_output, BundleError, "function 'main' gives 'nobody', which nothing in it makes"),
        (two_results, EngineError, "linear 'hidden' in function 'main' gives 1 values where the file says 2"),
        (unknown_type, BundleError, "'hidden' of function 'main' has elements of type number 13"),
        (shorter_constant, BundleError, "needs 60 bytes, and the blob at offset"),
    ],
)
def test_a_program_that_is_wrong_names_the_operator(copy: Path, change: Any, kind: type, told: str) -> None:
    with pytest.raises(kind, match=told):
        Package.open(rewritten(copy, change)).function().run(INPUTS)


def test_bits_that_flip_end_in_a_sentence_or_in_a_result(copy: Path) -> None:
    """Two hundred copies with one to four wrong bytes: none ends in an error that is not ours."""
    chance, ended = random.Random(7), Counter[str]()
    whole = {file: (copy / file).read_bytes() for file in (MODEL, WEIGHTS)}
    for _ in range(200):
        file = chance.choice([MODEL, WEIGHTS])
        data = bytearray(whole[file])
        for _ in range(chance.choice([1, 2, 4])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (copy / file).write_bytes(data)
        try:
            Package.open(copy).function().run(INPUTS)
            ended["result"] += 1
        except (BundleError, EngineError) as error:
            ended[type(error).__name__] += 1
        (copy / file).write_bytes(whole[file])
    assert set(ended) == {"result", "BundleError", "EngineError"}, ended


def test_a_pipeline_is_refused(copy: Path) -> None:
    with pytest.raises(BundleError, match="holds pipeline, not an ML Program"):
        Package.open(rewritten(copy, lambda model: model.pipeline.SetInParent()))


def test_there_is_no_such_function(whole: Path) -> None:
    with pytest.raises(EngineError, match="has no function 'denoise'. It has: main"):
        Package.open(whole).function("denoise")


def test_weights_are_not_copied(whole: Path) -> None:
    """A weight in whole elements is the mapped file itself."""
    function = Package.open(whole).function()
    function.run(INPUTS)
    (file,) = function._values._files.values()
    held = file.read(64, *_fp32(), 64, "w")
    at = held.data_ptr() - np.frombuffer(file._map, np.uint8).__array_interface__["data"][0]
    assert 0 < at < file.bytes


def _fp32() -> tuple[Any]:
    from echoedge.runtime.engines.mil.kinds import BY_NAME

    return (BY_NAME["fp32"],)
