"""runtime/verify/parity.py: a sound bundle passes, and everything that is wrong with one fails where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from echoedge.core.bundle import CONDITION_PROGRAMS, Bundle, Figures, Manifest, Parity
from echoedge.core.bundle.agreement import demands, falls_short, figures, lowest, worst
from echoedge.core.bundle.golden import GOLDEN, GOLDEN_INDEX, Given, Golden
from echoedge.core.errors import BundleError, EngineError, InputError
from echoedge.core.train.speech import synthesise
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.request import nano_request
from echoedge.runtime.registry import REGISTRY
from echoedge.runtime.verify import parity
from echoedge.runtime.verify.mouths import silence_of_bundle
from echoedge.runtime.verify.parity import (
    LIPSYNC_SHARE,
    NO_CALLS,
    NO_CLIP,
    NOTHING_DEMANDED,
    Lipsync,
    Row,
    ShutMouth,
    Verdict,
    lipsync_over,
    verify,
)
from echoedge.targets.bars import EXACT, WEIGHT_BARS

from ..bundles import HOLLOW, changed_bundle, demanding_bundle, small_engine, small_programs
from ..inline import Inline
from .engines_for_tests import Swapped

PROGRAMS = ("audio_encoder", "image_encoder", "text_encoder", "vae_encode", *CONDITION_PROGRAMS, "denoise", "vae_decode")
ROWS = {*PROGRAMS, "latents", "frames"}


def failed(verdict: Verdict) -> set[str]:
    return {row.name for row in verdict.rows if row.failed}


def row(verdict: Verdict, name: str) -> Row:
    return next(row for row in verdict.rows if row.name == name)


# ---- what passes -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(bundle_path: Path) -> Verdict:
    """The bundle's own programs."""
    bundle = Bundle.open(bundle_path)
    return verify(bundle, open_engine(bundle))


def test_a_fresh_bundle_passes(compiled: Verdict) -> None:
    assert compiled.passed, compiled.to_dict()
    assert compiled.complete
    assert compiled.sentence() == "Equal within the bundle's thresholds."
    assert {row.name for row in compiled.rows} == ROWS


def test_rows_are_judged_by_the_bundles_thresholds(compiled: Verdict, bundle: Bundle) -> None:
    assert {row.name: row.demanded for row in compiled.rows} == bundle.manifest.demanded
    assert row(compiled, "denoise").demanded.psnr_db == 40.0


def test_eight_bits_are_seen(compiled: Verdict) -> None:
    psnr = row(compiled, "denoise").measured.psnr_db
    assert psnr is not None
    assert 40 < psnr < 80


def test_eight_bits_fail_the_bar_of_full_precision_and_what_has_none_does_not(compiled: Verdict) -> None:
    """The autoencoder is not quantised by any recipe: measured 141 and 132 dB beside 50 to 60."""
    exact = {"vae_encode", "vae_decode", "patch_conditions"}
    assert {row.name for row in compiled.rows if falls_short(row.measured, EXACT)} == ROWS - exact


def test_full_precision_equals_itself(bundle: Bundle) -> None:
    verdict = verify(bundle, small_engine())
    assert verdict.passed
    assert min(row.measured.psnr_db or 0 for row in verdict.rows) > 120
    assert verdict.lipsync.measured == pytest.approx(verdict.lipsync.reference, abs=1e-6)


def test_progress_counts_programs_and_the_clip(bundle: Bundle) -> None:
    told: list[tuple[str, int, int]] = []
    verify(bundle, small_engine(), progress=lambda *step: told.append(step))
    assert told == [*(("programs", i, 10) for i in range(1, 11)), *(("inputs", i, 6) for i in range(1, 7)), ("clip", 1, 1)]


# ---- what fails ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "fails"),
    [
        ("denoise", {"denoise", "latents", "frames"}),
        ("audio_conditions", {"audio_conditions", "latents", "frames"}),
        ("vae_decode", {"vae_decode", "frames"}),
        ("text_encoder", {"text_encoder", "latents", "frames"}),
    ],
)
def test_a_program_of_other_weights_fails_and_so_does_what_follows(program: str, fails: set[str], bundle: Bundle) -> None:
    verdict = verify(bundle, Swapped(small_engine(), small_engine(seed=1), program))
    assert not verdict.passed
    assert program in failed(verdict)
    assert failed(verdict) <= fails


class Broken:
    """An engine whose denoiser returns not-a-number."""

    name = "broken"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def has(self, program: str) -> bool:
        return self.engine.has(program)

    def run(self, program: str, method: str, inputs: list[Array]) -> list[Array]:
        outputs = self.engine.run(program, method, inputs)
        return [np.full_like(output, np.nan) for output in outputs] if program == "denoise" else outputs


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_not_a_number_fails(bundle: Bundle) -> None:
    verdict = verify(bundle, Broken(small_engine()))
    assert {"denoise", "latents", "frames"} <= failed(verdict)
    json.dumps(verdict.to_dict(), allow_nan=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_not_a_number_on_both_sides_fails(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that was exported from broken weights: what was recorded is played, and it is no agreement."""
    golden = parity.read_golden(bundle)
    calls = [call for calls in golden.index["programs"]["denoise"].values() for call in calls]
    entries = [entry for call in calls for entry in call["outputs"] if entry is not None]
    keys = {entry["key"] if isinstance(entry, dict) else entry for entry in entries} | {golden.index["clip"]["latents"]}
    recorded = {key: np.full_like(array, np.nan) if key in keys else array for key, array in golden.tensors.items()}
    monkeypatch.setattr(parity, "read_golden", lambda _: Golden(recorded, golden.index))
    verdict = verify(bundle, Broken(small_engine()))
    assert {"denoise", "latents"} <= failed(verdict)
    assert not verdict.passed
    assert row(verdict, "latents").measured == Figures(psnr_db=0.0, cosine=0.0, max_abs=None)


@pytest.fixture
def golden(bundle: Bundle) -> dict[str, Array]:
    return bundle.read_tensors(GOLDEN)


@pytest.fixture
def index(bundle: Bundle) -> dict[str, Mapping]:
    return dict(json.loads(bundle.path(GOLDEN_INDEX).read_text()))


def test_altered_goldens_fail(bundle_path: Path, tmp_path: Path, golden: dict[str, Array], index: dict[str, Mapping]) -> None:
    key = index["programs"]["image_encoder"]["forward"][0]["outputs"][0]
    golden[key] = golden[key] + 0.05 * np.ptp(golden[key])
    bundle = Bundle.open(changed_bundle(bundle_path, tmp_path / "b.echoedge", GOLDEN, save(golden)))
    assert "image_encoder" in failed(verify(bundle, small_engine()))


def test_raised_thresholds_fail(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(demanding_bundle(bundle_path, tmp_path / "b.echoedge", 90.0, "denoise"))
    assert failed(verify(bundle, open_engine(bundle))) == {"denoise"}
    assert verify(bundle, small_engine()).passed


def test_damaged_index(bundle_path: Path, tmp_path: Path) -> None:
    whole = json.loads((bundle_path / GOLDEN_INDEX).read_text())
    call = whole["programs"]["denoise"]["forward"][0]
    lame = whole | {"programs": {"denoise": {"forward": [call | {"inputs": [{"program": "vae_encode"}]}]}}}
    without = [whole | {"clip": {k: v for k, v in whole["clip"].items() if k != "speech"}}, whole | {"settings": {}}]
    texts = (b"{", b"[]", b'{"clip": {"speech": "gone"}}', b'{"clip": {}}', *(json.dumps(x).encode() for x in (lame, *without)))
    for number, text in enumerate(texts):
        bundle = Bundle.open(changed_bundle(bundle_path, tmp_path / f"{number}", GOLDEN_INDEX, text))
        with pytest.raises(BundleError, match=r"golden\.json of .* is damaged .*Export the bundle again\."):
            verify(bundle, small_engine())


def test_a_golden_without_programs_proves_nothing(bundle_path: Path, tmp_path: Path, index: dict[str, Mapping]) -> None:
    text = json.dumps(index | {"programs": {}}).encode()
    bundle = Bundle.open(changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, text))
    with pytest.raises(BundleError, match="it records no program"):
        verify(bundle, small_engine())


@pytest.mark.parametrize("calls", ["none", "without outputs"])
def test_a_golden_that_compares_nothing_proves_nothing(
    calls: str, bundle_path: Path, tmp_path: Path, index: dict[str, Mapping]
) -> None:
    recorded = index["programs"]["image_encoder"]["forward"]
    silent = [] if calls == "none" else [call | {"outputs": [None] * len(call["outputs"])} for call in recorded]
    text = json.dumps(index | {"programs": {"image_encoder": {"forward": silent}}}).encode()
    bundle = Bundle.open(changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, text))
    with pytest.raises(BundleError, match="recorded calls of image_encoder compare no outputs"):
        verify(bundle, small_engine())


# ---- what is not judged ----------------------------------------------------------------------------------------------------------


def test_a_bundle_without_a_clip_says_so(bundle_path: Path, tmp_path: Path, index: dict[str, Mapping]) -> None:
    """As bundles of the released models are."""
    text = json.dumps(index | {"clip": {}, "settings": {}}).encode()
    bundle = Bundle.open(changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, text))
    verdict = verify(bundle, small_engine())
    assert {row.name: row.unjudged for row in verdict.rows if row.unjudged} == {"latents": NO_CLIP, "frames": NO_CLIP}
    assert verdict.lipsync.unjudged == NO_CLIP
    assert verdict.passed
    assert not verdict.complete
    assert verdict.sentence() == "What was judged is equal within the bundle's thresholds; 3 of 18 rows were not judged."


def test_a_program_without_recorded_calls_says_so(bundle_path: Path, tmp_path: Path, index: dict[str, Mapping]) -> None:
    programs = {name: calls for name, calls in index["programs"].items() if name != "denoise"}
    bundle = Bundle.open(
        changed_bundle(bundle_path, tmp_path / "b", GOLDEN_INDEX, json.dumps(index | {"programs": programs}).encode())
    )
    verdict = verify(bundle, Swapped(small_engine(), small_engine(seed=1), "denoise"))
    assert row(verdict, "denoise").unjudged == NO_CALLS
    assert not row(verdict, "denoise").passed
    assert failed(verdict) == {"latents", "frames"}  # the clip is judged all the same


def asking(bundle: Bundle, demanded: Mapping[str, Figures]) -> Manifest:
    """The bundle's manifest, demanding this of its programs and nothing else."""
    programs = {name: p.model_copy(update={"demanded": demanded.get(name)}) for name, p in bundle.manifest.programs.items()}
    return bundle.manifest.model_copy(update={"programs": programs, "parity": Parity()})


def test_a_bundle_that_demands_nothing_proves_nothing(bundle: Bundle) -> None:
    lenient = replace(bundle, manifest=asking(bundle, {}))
    verdict = verify(lenient, small_engine())
    assert {row.unjudged for row in verdict.rows} == {NOTHING_DEMANDED}
    assert not any(row.passed or row.failed for row in verdict.rows)
    alone = replace(verdict, lipsync=Lipsync(), reactions=())
    assert not alone.passed
    assert not alone.failed
    assert alone.sentence() == "Nothing was judged: this says nothing about the bundle."


def test_what_reads_another_programs_output_is_asked_for_no_more_than_that(bundle: Bundle) -> None:
    """A denoiser in full precision, given the keys and values of an encoder of coarse weights, is as coarse as they are."""
    made, full = Golden(), small_engine()
    example = {name: [x.numpy() for x in p["forward"].drawn().values()] for name, p in small_programs().items() if "forward" in p}
    encoded = full.run("text_conditions", "forward", example["text_conditions"])
    made.add_call("text_conditions", "forward", example["text_conditions"], encoded)
    places = {name: index for index, name in enumerate(CONDITION_PROGRAMS["text_conditions"])}
    names = list(small_programs()["denoise"]["forward"].inputs)
    inputs = [encoded[places[name]] if name in places else x for name, x in zip(names, example["denoise"], strict=True)]
    given = [Given("text_conditions", "forward", 0, places[n]) if n in places else x for n, x in zip(names, inputs, strict=True)]
    made.add_call("denoise", "forward", given, full.run("denoise", "forward", inputs))
    assert made.makers("denoise") == {"text_conditions"}
    assert made.makers("text_conditions") == set()

    class Coarse(Swapped):
        def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            outputs = super().run(program, method, inputs)
            if program != self.program:
                return outputs
            noise = np.random.default_rng(0)
            return [x + (1e-2 * np.ptp(x) * noise.standard_normal(x.shape)).astype(np.float32) for x in outputs]

    demanding = asking(bundle, {"denoise": EXACT, "text_conditions": WEIGHT_BARS["int4"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("echoedge.runtime.verify.parity.read_golden", lambda _: made)
        verdict = verify(replace(bundle, manifest=demanding), Coarse(full, full, "text_conditions"))
        assert (row(verdict, "denoise").measured.psnr_db or 0) < 90
        assert row(verdict, "denoise").demanded == WEIGHT_BARS["int4"]
        assert not verdict.failed
        worse = verify(replace(bundle, manifest=demanding), Swapped(full, small_engine(seed=1), "denoise"))
        assert failed(worse) == {"denoise"}


def test_a_bundle_without_goldens(bundle: Bundle) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != GOLDEN}
    with pytest.raises(BundleError, match=r"no file 'tests/golden\.safetensors'"):
        verify(replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files})), small_engine())


# ---- a baseline of one's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(golden: dict[str, Array], index: dict[str, Mapping]) -> dict[str, Array]:
    return {name: golden[index["clip"][name]] for name in ("latents", "frames")}


def saved(path: Path, tensors: Mapping[str, Array]) -> Path:
    save_file(dict(tensors), path)
    return path


def test_the_recorded_run_as_a_baseline_passes(bundle: Bundle, clip: dict[str, Array], tmp_path: Path) -> None:
    verdict = verify(bundle, small_engine(), saved(tmp_path / "run.safetensors", clip | {"more": np.zeros(1)}))
    assert verdict.passed
    assert row(verdict, "latents").measured.psnr_db == pytest.approx(150, abs=30)


def test_another_run_as_a_baseline_fails(bundle: Bundle, clip: dict[str, Array], tmp_path: Path) -> None:
    other = {"latents": -clip["latents"], "frames": 255 - clip["frames"]}
    verdict = verify(bundle, small_engine(), saved(tmp_path / "run.safetensors", other))
    assert failed(verdict) == {"latents", "frames"}


def test_a_missing_baseline(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"baseline .*gone\.safetensors cannot be read .*`latents` and `frames`"):
        verify(bundle, small_engine(), tmp_path / "gone.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello, this is not a safetensors file"])
def test_a_baseline_that_is_no_safetensors_file(content: bytes, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors cannot be read"):
        verify(bundle, small_engine(), tmp_path / "a.safetensors")


def test_a_baseline_without_frames(bundle: Bundle, clip: dict[str, Array], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has frames missing; the bundle's clip has \[17, 32, 32, 3\]"):
        verify(bundle, small_engine(), saved(tmp_path / "a.safetensors", {"latents": clip["latents"]}))


def test_a_baseline_of_another_shape(bundle: Bundle, clip: dict[str, Array], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has latents \[16, 4, 4, 4\]; the bundle's clip has \[16, 5, 4, 4\]"):
        verify(bundle, small_engine(), saved(tmp_path / "a.safetensors", clip | {"latents": clip["latents"][:, :4]}))


# ---- lip-sync over held-out clips ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """nano in two steps, programs that no runtime can play: for the torch engine."""
    path = tmp_path_factory.mktemp("nano") / "nano.echoedge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "JobRunner", Inline)
        patch.setitem(REGISTRY, "hollow", HOLLOW)
        pipeline.export_bundle(nano_request("fp32", target="hollow", steps=2), path)
    return Bundle.open(path)


def test_full_precision_keeps_its_lipsync(nano_bundle: Bundle) -> None:
    told: list[tuple[str, int, int]] = []
    reference, measured = lipsync_over(nano_bundle, open_engine(nano_bundle, "torch"), 2, lambda *step: told.append(step))
    assert reference == measured
    assert -1 <= reference <= 1
    assert told == [("clips", 1, 2), ("clips", 2, 2)]


def test_an_engine_that_hears_nothing_loses_it(nano_bundle: Bundle) -> None:
    class Deaf(Swapped):
        def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            outputs = super().run(program, method, inputs)
            return [np.zeros_like(output) for output in outputs] if program == self.program else outputs

    torch_engine = open_engine(nano_bundle, "torch")
    reference, measured = lipsync_over(nano_bundle, Deaf(torch_engine, torch_engine, "audio_encoder"), 2)
    assert reference != measured


# ---- the mouth where nobody speaks -----------------------------------------------------------------------------------------------


def test_a_mouth_that_chatters_in_silence_fails(nano_bundle: Bundle) -> None:
    class Chattering(Swapped):
        """Hears a voice all the time."""

        def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            if program == self.program:
                inputs = [synthesise(0, inputs[0].size / 16_000).waveform.reshape(inputs[0].shape), *inputs[1:]]
            return super().run(program, method, inputs)

    torch_engine = open_engine(nano_bundle, "torch")
    told: list[tuple[int, int]] = []

    def judged(engine: Engine) -> ShutMouth:
        found = silence_of_bundle(nano_bundle, engine, 1, lambda *step: told.append(step), "silence", (1.0, 2.0, 1.0))
        return ShutMouth(found, 1)

    sound, chatter = judged(torch_engine), judged(Chattering(torch_engine, torch_engine, "audio_encoder"))
    assert told == [(1, 1)] * 2
    assert sound.passed and chatter.failed
    assert chatter.measured.opening > 0.5
    equal = Verdict((Row("latents", Figures(psnr_db=60), Figures(psnr_db=40)),), Lipsync(0.9, 0.9), silence=sound)
    assert equal.passed and equal.complete
    assert replace(equal, silence=chatter).failed
    assert replace(equal, silence=chatter).to_dict()["silence"] == {
        "judged": True, "reason": None, "passed": False, "opening": round(chatter.measured.opening, 4),
        "motion": round(chatter.measured.motion, 4), "demanded_opening": 0.1, "clips": 1,
    }  # fmt: skip


def test_lipsync_over_clips_needs_the_full_precision_weights(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="whose weights do not ship"):
        lipsync_over(bundle, small_engine(), 2)


# ---- figures ---------------------------------------------------------------------------------------------------------------------


def test_figures_of_equal_arrays() -> None:
    a = np.linspace(-1, 1, 50, dtype=np.float32)
    assert figures(a, a) == Figures(psnr_db=150.0, cosine=1.0, max_abs=0.0)


def test_figures_of_a_known_error() -> None:
    a = np.asarray([0.0, 4.0])
    found = figures(a, a + [0.4, 0.0])
    assert found.psnr_db == pytest.approx(10 * np.log10(16 / 0.08))  # the peak is the reference's range
    assert found.max_abs == pytest.approx(0.4)
    assert found.cosine == pytest.approx(16 / (4 * np.hypot(0.4, 4)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_no_agreement(bad: float) -> None:
    sound, broken = np.arange(4.0), np.asarray([0, 1, bad, 3])
    for pair in ((sound, broken), (broken, sound), (broken, broken)):
        assert figures(*pair) == Figures(psnr_db=0.0, cosine=0.0, max_abs=None)


def test_the_worst_of_none_is_refused() -> None:
    with pytest.raises(InputError, match="There are no figures"):
        worst([])


def test_the_lowest_of_several_demands() -> None:
    strict, lenient = Figures(psnr_db=90, cosine=0.99999, max_abs=0.1), Figures(psnr_db=30, cosine=0.99, max_abs=0.2)
    assert lowest([strict, lenient]) == lenient
    assert lowest([strict]) == strict
    assert lowest([strict, Figures(psnr_db=40)]) == Figures(psnr_db=40)
    assert not demands(lowest([strict, Figures()]))


def test_a_constant_reference_has_peak_one() -> None:
    assert figures(np.ones(4), np.full(4, 0.9)).psnr_db == pytest.approx(20.0)


def test_the_worst_of_several() -> None:
    found = worst([Figures(psnr_db=50, cosine=0.9, max_abs=0.1), Figures(psnr_db=40, cosine=0.99, max_abs=0.2)])
    assert found == Figures(psnr_db=40, cosine=0.9, max_abs=0.2)


def test_the_worst_of_several_with_one_that_is_not_finite() -> None:
    found = worst([Figures(psnr_db=50, cosine=0.9, max_abs=0.1), figures(np.arange(2.0), np.asarray([0, np.nan]))])
    assert found == Figures(psnr_db=0.0, cosine=0.0, max_abs=None)


# ---- verdicts --------------------------------------------------------------------------------------------------------------------

MEASURED = Figures(psnr_db=50.0, cosine=0.999, max_abs=0.1)


@pytest.mark.parametrize(
    ("measured", "demanded", "passed"),
    [
        (MEASURED, Figures(psnr_db=50.0, cosine=0.999, max_abs=0.1), True),
        (MEASURED, Figures(psnr_db=50.1), False),
        (MEASURED, Figures(cosine=0.9991), False),
        (MEASURED, Figures(max_abs=0.09), False),
        (Figures(), Figures(psnr_db=1.0), False),
        (Figures(), Figures(max_abs=1.0), False),
    ],
)
def test_a_row_passes_where_all_that_is_demanded_is_met(measured: Figures, demanded: Figures, passed: bool) -> None:
    row = Row("x", measured, demanded)
    assert row.passed is passed
    assert row.failed is not passed


def test_what_nothing_is_demanded_of_has_neither_passed_nor_failed() -> None:
    for row in (Row("x", MEASURED, Figures()), Row("x", Figures(), Figures(psnr_db=1.0), NO_CALLS)):
        assert row.unjudged
        assert not row.passed
        assert not row.failed
        assert row.to_dict()["passed"] is None


@pytest.mark.parametrize(
    ("reference", "measured", "passed"),
    [
        (0.6, 0.6, True), (0.6, 0.571, True), (0.6, 0.569, False), (0.6, 0.7, True), (0.6, float("nan"), False), (0.6, -0.6, False),
        (0.0, 0.0, True), (-0.2, -0.2, True), (-0.2, -0.1, True), (-0.2, -0.3, False),
    ],
)  # fmt: skip
def test_lipsync_is_a_gate(reference: float, measured: float, passed: bool) -> None:
    """A clip that is out of step in full precision too is not held against the compiled one."""
    verdict = Verdict((), Lipsync(reference, measured))
    assert verdict.lipsync.passed is passed
    assert verdict.passed is passed
    assert verdict.failed is not passed


def test_one_failing_row_fails_the_verdict() -> None:
    rows = (Row("a", MEASURED, Figures(psnr_db=40)), Row("b", MEASURED, Figures(psnr_db=60)))
    assert not Verdict(rows, Lipsync(0.5, 0.5)).passed
    assert Verdict(rows, Lipsync(0.5, 0.5)).sentence() == "A threshold failed."
    assert Verdict(rows[:1], Lipsync(0.5, 0.5)).passed
    assert not Verdict(rows[:1], Lipsync(0.5, 0.3)).passed


def test_a_verdict_for_scripts() -> None:
    rows = (Row("denoise", MEASURED, Figures(psnr_db=60.0)),)
    told = json.loads(json.dumps(Verdict(rows, Lipsync(0.61234, 0.6)).to_dict(), allow_nan=False))
    assert told == {
        "passed": False,
        "complete": True,
        "lipsync": {
            "judged": True, "reason": None, "passed": True,
            "reference": 0.6123, "measured": 0.6, "demanded_share": LIPSYNC_SHARE, "clips": 1,
        },
        "inputs": [],
        "silence": None,
        "rows": [
            {
                "name": "denoise",
                "judged": True,
                "reason": None,
                "passed": False,
                "measured": {"psnr_db": 50.0, "cosine": 0.999, "max_abs": 0.1},
                "demanded": {"psnr_db": 60.0, "cosine": None, "max_abs": None},
                "first_differing": None,
            }
        ],
    }  # fmt: skip
