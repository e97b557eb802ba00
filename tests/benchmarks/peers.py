"""One denoising step's blocks here and in other tools: the same two blocks of full width, the same random weights, the same inputs.

    python tests/benchmarks/peers.py --out out/peers            (make bench-peers)

1. work       blocks, tokens that they attend to, inputs and the output of eager float32
2. peers      each exports the blocks its own way, once; files of `--out` are used again
3. worker     a process per peer, waiting for its turn: one call, its wall and CPU time
4. rounds     all peers in turn, round by round; medians, and the bars that they are held against

Two settings. `same-step`: peers are given the step as EchoEdge compiles it, keys and values as inputs, text padding collapsed.
`published`: the step as its authors run it, keys and values of 512 text, 257 image and all audio tokens computed inside; EchoEdge
computes them once per clip, so its step is the same one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.config import FLASH, PRESETS, ClipSpec, ModelConfig
from echoedge.core.model.attention import PROJECTIONS, CrossAttention, LayerConditions, rope_tables
from echoedge.core.model.transformer import Block
from echoedge.core.sampling.inputs import collapse_padding
from echoedge.runtime.bench.clip import device_name
from echoedge.targets.executorch.half_products import Products, multiplies_bfloat16

CLIPS = {448: ClipSpec(128, 128, 25), 1792: ClipSpec(256, 256, 25), 5376: ClipSpec(448, 448, 25)}
SETTINGS = ("same-step", "published")
PROMPT = 60  # rows of the prompt before padding
TEXT_ROWS = 64
LAYERS = 2  # of the thirty, unless more are asked for
SAMPLES = 3  # calibration samples of OpenVINO's quantisation

# Blocks, tokens, rival: time of EchoEdge's int8 over the rival's better time, at most.
BARS = {
    (LAYERS, 448, "openvino"): 0.9,
    (LAYERS, 1792, "openvino"): 1.0,
    (LAYERS, 448, "onnxruntime"): 0.75,
    (FLASH.layers, 448, "torch fp32"): 0.2,
    (FLASH.layers, 1792, "torch fp32"): 0.2,
}


# ---- 1. Work --------------------------------------------------------------------------------------------------------------------


class PlainCross(nn.Module):
    """The reference's decoupled cross-attention written with the library's attention, which exporters know best."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.heads, self.inner = attention.heads, attention

    def forward(self, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inner, h, (b, n, dim), f = self.inner, self.heads, x.shape, weights[0].shape[1]

        def split(tensor: Tensor, batch: int) -> Tensor:
            return tensor.reshape(batch, -1, h, dim // h).transpose(1, 2)

        def attend(q: Tensor, k: Tensor, v: Tensor, batch: int = 1, bias: Tensor | None = None) -> Tensor:
            out = F.scaled_dot_product_attention(split(q, batch), split(k, batch), split(v, batch), bias)
            return out.transpose(1, 2).reshape(b, f, -1, dim)

        c, q = conditions, inner.norm_q(inner.q(x))
        bias = None if c.text_bias is None else c.text_bias.view(1, 1, 1, -1).expand(1, 1, n, -1)  # some runtimes take no other
        out = attend(q, c.text_k, c.text_v, 1, bias) * weights[0] + attend(q, c.image_k, c.image_v) * weights[1]
        return inner.o((out + attend(q, c.audio_k, c.audio_v, f) * weights[2]).reshape(b, n, dim))


class Blocks(nn.Module):
    """The blocks in a row, on tensors alone; rotary tables are constants. `published`: conditions are tokens, else keys and values
    stacked over layers and the bias of collapsed text."""

    cos: Tensor
    sin: Tensor

    def __init__(self, blocks: list[nn.Module], clip: ClipSpec, published: bool, head_dim: int) -> None:
        super().__init__()
        self.blocks, self.published, self.frames = nn.ModuleList(blocks), published, clip.latent_frames
        cos, sin = rope_tables(head_dim, self.frames, clip.latent_height // 2, clip.latent_width // 2)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, x: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor) -> Tensor:
        text, image, audio = (modality_weights[:, i : i + 1].reshape(1, self.frames, 1, 1) for i in range(3))
        for index, block in enumerate(self.blocks):
            if self.published:
                k, v, *rest = keys_values(block.cross_attn.inner, conditions)
                layer = LayerConditions(k, v, None, *rest)  # type: ignore[arg-type]
            else:
                bias, *stacks = conditions
                k, v, *rest = (stack[index : index + 1].view(stack.shape[1:]) for stack in stacks)
                layer = LayerConditions(k, v, bias, *rest)
            x = block(x, modulation, (self.cos, self.sin), layer, (text, image, audio))
        return x


def keys_values(attention: Any, tokens: Sequence[Tensor]) -> list[Tensor]:
    """Of text, image and audio, in the order of `LayerConditions`."""
    return [x for kind, rows in zip(PROJECTIONS, tokens, strict=True) for x in attention.keys_values(kind, rows)]


NAMES = {
    "same-step": ("x", "modulation", "weights", "text_bias", "text_k", "text_v", "image_k", "image_v", "audio_k", "audio_v"),
    "published": ("x", "modulation", "weights", "text", "image", "audio"),
}


@dataclass(frozen=True)
class Work:
    """`blocks`: of the reference; inputs of both settings for one seed come from `inputs`."""

    config: ModelConfig
    clip: ClipSpec
    blocks: list[Block]

    def module(self, setting: str, plain: bool) -> Blocks:
        """`plain`: with the library's attention, as peers export it."""
        import copy

        blocks: list[nn.Module] = [copy.copy(block) for block in self.blocks]
        if plain or setting == "published":
            for block in blocks:
                block._modules = dict(block._modules)
                block.cross_attn = PlainCross(block.cross_attn)  # type: ignore[arg-type]
        return Blocks(blocks, self.clip, setting == "published", self.config.head_dim).eval()

    @torch.no_grad()
    def inputs(self, setting: str, seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        config, clip, d = self.config, self.clip, self.config.dim
        x, modulation = torch.randn(1, clip.tokens, d, generator=g), 0.3 * torch.randn(1, 6, d, generator=g)
        prompt, padding = torch.randn(PROMPT, d, generator=g), torch.randn(1, d, generator=g)
        image = torch.randn(1, config.image_tokens, d, generator=g)
        audio = torch.randn(1, clip.latent_frames * config.audio.tokens, d, generator=g)
        first = (x, modulation, torch.ones(1, 3, clip.latent_frames))
        if setting == "published":
            return (*first, torch.cat([prompt, padding.expand(config.text_len - PROMPT, d)])[None], image, audio)
        bias = torch.from_numpy(collapse_padding(prompt.numpy(), config.text_len, TEXT_ROWS)[1])
        text = torch.cat([prompt, padding.expand(TEXT_ROWS - PROMPT, d)])[None]  # rows behind the padding row are masked
        columns = zip(*(keys_values(block.cross_attn, (text, image, audio)) for block in self.blocks), strict=True)
        k, v, *rest = (torch.stack(column) for column in columns)
        return (*first, bias[None], k, v, *rest)


def work(tokens: int, model: str, layers: int) -> Work:
    config = FLASH if model == "flash" else PRESETS[model]
    torch.manual_seed(7)
    blocks = [Block(config, coupled=False).eval().requires_grad_(False) for _ in range(layers)]
    for block in blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=0.1)
    return Work(config, CLIPS[tokens], blocks)


def psnr(measured: Tensor, reference: Tensor) -> float:
    span = reference.max() - reference.min()
    return float(10 * torch.log10(span**2 / ((measured - reference) ** 2).mean()))


# ---- 2. Peers -------------------------------------------------------------------------------------------------------------------

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Task:
    """One peer's share: where its files lie, which work, in which setting, on how many threads."""

    folder: Path
    tokens: int
    setting: str
    threads: int
    model: str
    layers: int

    @property
    def label(self) -> str:
        """Names the work in files of `folder`."""
        return str(self.tokens) if self.layers == LAYERS else f"{self.tokens}x{self.layers}"

    def work(self) -> Work:
        return work(self.tokens, self.model, self.layers)

    def inputs(self) -> dict[str, Tensor]:
        values = self.work().inputs(self.setting, seed=1)
        return dict(zip(NAMES[self.setting], values, strict=True))


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` where it does not exist; it appears when it is complete."""
    if not folder.exists():
        scratch = folder.with_name(folder.name + ".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        make(scratch)
        scratch.rename(folder)
    return folder


def eager(task: Task) -> Call:
    module, inputs = task.work().module(task.setting, plain=True), tuple(task.inputs().values())
    return lambda: module(*inputs)


def torchao(task: Task) -> Call:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module, inputs = task.work().module(task.setting, plain=True), tuple(task.inputs().values())
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    compiled = torch.compile(module)
    return lambda: compiled(*inputs)


def _onnx(task: Task) -> Path:
    """The blocks as ONNX, opset 18, weights beside it."""

    def make(folder: Path) -> None:
        import onnx

        inputs = task.inputs()
        module = task.work().module(task.setting, plain=True)
        program = torch.onnx.export(
            module, tuple(inputs.values()), dynamo=True, opset_version=18, input_names=list(inputs), output_names=["y"],
            external_data=True, verbose=False,
        )  # fmt: skip
        program.save(str(folder / "exported.onnx"), external_data=True)
        model = onnx.load(str(folder / "exported.onnx"))
        del model.graph.value_info[:]  # stale after the exporter's rewrites: quantisation would refuse them
        onnx.save(model, str(folder / "blocks.onnx"), save_as_external_data=True, location="blocks.data")
        for file in folder.glob("exported.onnx*"):
            file.unlink()

    return _once(task.folder / f"onnx-{task.setting}-{task.label}", make) / "blocks.onnx"


def onnxruntime(task: Task) -> Call:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = _onnx(task)

    def make(folder: Path) -> None:
        quantize_dynamic(
            str(source), str(folder / "int8.onnx"), op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8, use_external_data_format=True,
        )  # fmt: skip

    path = _once(task.folder / f"onnxruntime-{task.setting}-{task.label}", make) / "int8.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = task.threads, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in task.inputs().items()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(precision: str, whole: bool = True) -> Callable[[Task], Call]:
    """NNCF's quantisation of what lies between; not `whole`: without the products of attention."""

    def peer(task: Task) -> Call:
        import nncf
        import openvino as ov

        source, core = _onnx(task), ov.Core()

        def make(folder: Path) -> None:
            names, job = NAMES[task.setting], task.work()
            samples = [dict(zip(names, (v.numpy() for v in job.inputs(task.setting, 2 + i)), strict=True)) for i in range(SAMPLES)]
            model = core.read_model(str(source))
            ignored = None if whole else nncf.IgnoredScope(names=_products(model))
            quantised = nncf.quantize(
                model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES, ignored_scope=ignored
            )
            ov.save_model(quantised, str(folder / "int8.xml"), compress_to_fp16=False)

        name = f"openvino-{'whole' if whole else 'layers'}-{task.setting}-{task.label}"
        path = _once(task.folder / name, make) / "int8.xml"
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": task.threads, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(str(path), "CPU", settings).create_infer_request()
        feed = {name: value.numpy() for name, value in task.inputs().items()}

        def call() -> Tensor:
            return torch.from_numpy(next(iter(request.infer(feed, share_inputs=True, share_outputs=True).values())))

        return call

    return peer


def _products(model: Any) -> list[str]:
    """Names of the products between activations: neither side leads back to a constant."""

    def constant(node: Any) -> bool:
        while node.get_type_name() in ("Transpose", "Convert", "Reshape"):
            node = node.input_value(0).get_node()
        return node.get_type_name() == "Constant"

    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    return [n.get_friendly_name() for n in products if not any(constant(n.input_value(i).get_node()) for i in (0, 1))]


def echoedge(weights: str, products: Products = "fp32") -> Callable[[Task], Call]:
    """This project's program: the step's blocks with keys and values as inputs, whatever the setting."""

    def peer(task: Task) -> Call:
        from executorch.extension.pybindings import portable_lib

        from echoedge.core.model.programs import EntryPoint
        from echoedge.quantize.recipes import PRESETS as RECIPES
        from echoedge.targets.executorch.half_products import products_in
        from echoedge.targets.executorch.lower import compile_program

        job = task.work()
        inputs = dict(zip(NAMES["same-step"], job.inputs("same-step", seed=1), strict=True))

        def make(folder: Path) -> None:
            method = EntryPoint(job.module("same-step", plain=False), inputs, ["y"])
            with products_in(products):
                compile_program("denoise", {"forward": method}, RECIPES[weights], folder)

        path = _once(task.folder / f"echoedge-{weights}-{products}-{task.label}", make) / "denoise.pte"
        portable_lib._unsafe_reset_threadpool(task.threads)
        program, values = portable_lib._load_for_executorch(str(path)), tuple(inputs.values())
        return lambda: program.run_method("forward", values, False)[0]

    return peer


PEERS: dict[str, Callable[[Task], Call]] = {
    "echoedge int8": echoedge("int8"),
    "echoedge int8, bf16 attention": echoedge("int8", "bf16"),
    "echoedge int4": echoedge("int4"),
    "torch fp32": eager,
    "onnxruntime int8": onnxruntime,
    "openvino int8": openvino("f32"),
    "openvino int8, bf16": openvino("bf16"),
    "openvino int8 layers, bf16": openvino("bf16", whole=False),
    "torchao w8a8, compiled": torchao,
}
ON_REQUEST = ("torchao w8a8, compiled",)  # takes a minute to start, and is beaten by the others


def by_default() -> list[str]:
    """What runs on this processor."""
    return [name for name in PEERS if name not in ON_REQUEST and (multiplies_bfloat16() or "bf16 attention" not in name)]


@torch.no_grad()
def write_reference(task: Task) -> None:
    """The output of eager float32, which both settings share."""
    job = task.work()
    torch.save(job.module("published", plain=True)(*job.inputs("published", seed=1)), task.folder / f"reference-{task.label}.pt")


# ---- 3. Worker ------------------------------------------------------------------------------------------------------------------


def worker(name: str, task: Task) -> None:
    """Prepares a peer, says how close it comes, then answers each line of standard input with the time of one call."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries talk on standard output
    warnings.simplefilter("ignore")
    torch.set_num_threads(task.threads)
    with torch.no_grad():
        call = PEERS[name](task)
        close = psnr(call().clone(), torch.load(task.folder / f"reference-{task.label}.pt"))
        print(json.dumps({"psnr_db": close}), file=channel, flush=True)
        for _ in sys.stdin:
            started, cpu_started = time.perf_counter(), time.process_time()
            call()
            seconds = time.perf_counter() - started, time.process_time() - cpu_started
            print(json.dumps(seconds), file=channel, flush=True)


class Worker:
    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        command = [sys.executable, __file__, "--worker", name, "--out", str(task.folder), "--tokens", str(task.tokens)]
        command += ["--setting", task.setting, "--threads", str(task.threads), "--model", task.model, "--layers", str(task.layers)]
        log = task.folder / f"{name}-{task.setting}-{task.label}.log".replace(" ", "_")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, bufsize=1
        )
        try:
            self.psnr_db: float = json.loads(self._line())["psnr_db"]
        except ValueError:
            raise SystemExit(f"{name} failed; its errors are in {log}.") from None

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def call(self) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        wall, cpu = json.loads(self._line())
        return wall, cpu

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ---- 4. Rounds ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    layers: int
    tokens: int
    setting: str
    peer: str
    seconds: float
    cpu_seconds: float
    psnr_db: float


def compare(names: list[str], task: Task, rounds: int, wait: bool = False) -> list[Row]:
    """All peers in one setting at one clip size: prepared one after the other, then timed in turn; the first two rounds warm up."""
    workers = [Worker(name, task) for name in names]
    if wait:
        input("Ready. Press Enter when the machine is quiet. ")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + 2):
        for one in workers:
            time.sleep(0.1)  # the thread pool of the one before goes to sleep
            measured = one.call()
            if turn >= 2:
                times[one.name].append(measured)
    for one in workers:
        one.close()
    medians = {name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in times.items()}
    return [Row(task.layers, task.tokens, task.setting, w.name, *medians[w.name], w.psnr_db) for w in workers]


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """EchoEdge's time over the better one of each rival that has a bar, in either setting."""
    found = []
    for setting in SETTINGS:
        for (layers, tokens, rival), allowed in BARS.items():
            held = [row for row in rows if (row.layers, row.tokens, row.setting) == (layers, tokens, setting)]
            ours = {row.peer: row.seconds for row in held if row.peer.startswith("echoedge")}
            theirs = [row.seconds for row in held if row.peer.startswith(rival) and "layers" not in row.peer]
            if "echoedge int8" not in ours or not theirs:
                continue
            half = ours.get("echoedge int8, bf16 attention")
            found.append({
                "setting": setting, "rival": rival, "layers": layers, "tokens": tokens, "allowed": allowed, "run": "first",
                "int8": ours["echoedge int8"] / min(theirs), "int8_bf16": None if half is None else half / min(theirs),
            })  # fmt: skip
    return found


def bars(rows: list[Row]) -> list[tuple[str, float, float]]:
    """What is demanded, measured and allowed, in either setting."""
    return [
        (f"{row['setting']}, {row['layers']} blocks, {row['tokens']} tokens, int8 over {row['rival']}", row["int8"], row["allowed"])
        for row in ratios(rows)
    ]


def over_this(row: Row, rows: list[Row]) -> float | None:
    """The time of EchoEdge's int8 over that of `row`, in the same setting; None where int8 was not measured."""
    same = [one for one in rows if (one.layers, one.tokens, one.setting) == (row.layers, row.tokens, row.setting)]
    return next((one.seconds / row.seconds for one in same if one.peer == "echoedge int8"), None)


def record(path: Path, rows: list[Row], command: str, conditions: str) -> None:
    """Keeps the figures as docs/FIGURES.md shows them. Eager float32 is what PSNR is against: of itself there is none."""
    from echoedge.docs.figures import write_figures

    found = {}
    for name in ("torch", "executorch", "onnxruntime", "openvino", "nncf", "torchao"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    blocks = [
        vars(row) | {"psnr_db": None if row.peer == "torch fp32" else row.psnr_db, "int8_over_this": over_this(row, rows)}
        for row in rows
    ]
    held = ratios(rows)
    write_figures(
        path, command=command, source=f"the same command with `--record {path}`, which writes this file.", hardware=device_name(),
        versions=found, conditions=conditions, figures={"blocks": blocks} | ({"ratios": held} if held else {}),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="One denoising step's blocks here and in other tools.")
    parser.add_argument("--out", type=Path, default=Path("out/peers"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[448, 1792], choices=sorted(CLIPS))
    parser.add_argument("--setting", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--peers", nargs="+", default=by_default(), choices=list(PEERS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="flash", choices=sorted(PRESETS))
    parser.add_argument("--layers", type=int, default=LAYERS, help="blocks in a row; 30 take 14 GB of memory")
    parser.add_argument("--prepare", action="store_true", help="compile everything, measure nothing")
    parser.add_argument("--wait", action="store_true", help="measure on Enter, when everything has started")
    parser.add_argument("--record", type=Path, help="keep the figures there, as docs/FIGURES.md shows them: records/peers.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, Task(given.out, given.tokens[0], given.setting[0], given.threads, given.model, given.layers))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for tokens in given.tokens:
        tasks = [Task(given.out, tokens, setting, given.threads, given.model, given.layers) for setting in given.setting]
        write_reference(tasks[0])
        for task in tasks:
            if given.prepare:
                for name in given.peers:
                    one = Worker(name, task)
                    print(f"{name}, {task.setting}, {tokens} tokens: {one.psnr_db:.1f} dB", flush=True)
                    one.close()
                continue
            found = compare(given.peers, task, given.rounds, given.wait)
            rows += found
            print(f"\n{task.setting}, {given.layers} blocks, {tokens} tokens, {given.threads} threads, medians of {given.rounds}")
            for row in found:
                share = over_this(row, found)
                ratio = "" if share is None else f"  EchoEdge's int8 takes {share:.2f} of it"
                print(
                    f"  {row.peer:28s} {1e3 * row.seconds:8.1f} ms wall {1e3 * row.cpu_seconds:8.1f} ms CPU "
                    f"{row.psnr_db:6.1f} dB{ratio}"
                )
    for what, ratio, allowed in bars(rows):
        print(f"{'met   ' if ratio <= allowed else 'MISSED'} {what}: {ratio:.2f}, at most {allowed}")
    if rows and given.record:
        conditions = (
            f"{given.layers} blocks of {given.model} at full width from the same random weights and inputs, "
            f"{given.threads} threads, one process a peer, rounds interleaved, medians of {given.rounds}, load "
            f"{os.getloadavg()[0]:.1f} at the end. PSNR is against eager float32."
        )
        record(given.record, rows, shlex.join(["python", *sys.argv]), conditions)


if __name__ == "__main__":
    main()
