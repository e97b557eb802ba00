"""What a compiled program has to reach against full precision: what its own weights and the type it computes in allow, and no less.

A program's bar is the lower of two: that of the coarsest weights its own layers got, and that of its type. Coarse weights of one
program lower no other's bar. A clip's bars are those of the programs that flow into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..core.bundle import CONDITION_PROGRAMS, DECODE_PROGRAMS, Figures
from ..core.bundle.agreement import lowest
from ..core.bundle.reactions import Demand
from ..core.plan import check_choice
from ..quantize.schemes import Weights

# What programs compute in: a type throughout; "bf16": of products between activations alone; "whole-bf16": all of it; "fp16-sums":
# float16 whose products are added up in float16 too.
Compute = Literal["fp32", "bf16", "fp16", "whole-bf16", "fp16-sums"]

# Measured: the lowest of a bundle's programs. Small: the model of the tests; toy: that of the released model's; nano: as shipped;
# full: flash of full size, random weights.
EXACT = Figures(psnr_db=90.0, cosine=0.999999)  # small 132.5, toy 119.1, nano 136.7, full 99.4 (the tiny decoder)
WEIGHT_BARS: dict[Weights, Figures] = {
    "fp32": EXACT,
    "int8": Figures(psnr_db=40.0, cosine=0.999),  # small 50.5, nano 54.9, full 49.6; trained encoders have outliers, so 10 dB below
    "int4": Figures(psnr_db=30.0, cosine=0.99),  # small 37.8, nano 36.7, full 32.5 and 34.4
    # Palettes emulated in PyTorch by values alone, in float32. The presets' lowest; in brackets all layers, lowest of any program:
    "pal8": Figures(psnr_db=46.0, cosine=0.9995),  # small 56.4 (audio encoder), nano 59.9 (58.5, the step)
    "pal6": Figures(psnr_db=36.0, cosine=0.998),  # small 40.4 (audio encoder), nano 46.7 (43.9, the step)
    "pal4": Figures(psnr_db=28.0, cosine=0.985),  # small 38.0, nano 35.1 (the steps; all layers 34.4 and 32.9); full not measured
}
COMPUTE_BARS: dict[Compute, Figures] = {
    "fp32": EXACT,
    "fp16": Figures(psnr_db=55.0, cosine=0.9999),  # of Core ML: nano 70.3; emulated: small 65.1, nano 65.9; in bfloat16 48.1, 47.9
    "whole-bf16": Figures(psnr_db=40.0, cosine=0.999),  # Core AI: small 49.3, toy 45.5, nano 46.8 (audio encoder), 0.99919
    # Core AI's runtime on Linux adds up float16 in float16, 37 dB at 8,960 inputs: what it can show there, not what float16 leaves.
    "fp16-sums": Figures(psnr_db=35.0, cosine=0.999),  # small 62.4, toy 50.3 (the tiny decoder)
    "bf16": Figures(psnr_db=50.0, cosine=0.9999),  # products alone: toy 60.2, one attention 56.1; a decoder all in bfloat16 47.9
}
# What the tiny decoder clamps to pixels was of many times their size before, and half precision rounds that: toy, random weights
# 52.5, in PyTorch itself 53.9.
HALF_TINY = Figures(psnr_db=50.0, cosine=0.9999)
# Latents come out no worse than the worst program that flows into them (small int8 56.2 of 50.5, int4 39.6 of 37.8). Frames lose up
# to 10 dB (small int8 46.8, int4 29.9), and pixels of 8 bits end at 92 in full precision.
FRAMES_LOSE = 5.0
FRAMES_END = 80.0

# What another prompt, voice, portrait, first frame or seed changes of the velocity: the share of full precision's change, in its
# direction, that is kept; and what weights or types blur of a change, over the velocity, below which a change is not judged. A
# player or program that ignores an input keeps 0.000, whatever the weights; cosines, which blur lowers, are told and not judged.
WEIGHT_REACTIONS: dict[Weights, Demand] = {
    "fp32": Demand(share=0.99, least=1e-4),  # in PyTorch 1.0000
    "int8": Demand(share=0.95, least=0.012),  # kept: nano 1.000 to 1.002, small 0.985 to 1.011; blurred: nano 0.008
    "int4": Demand(share=0.8, least=0.05),  # kept: nano 0.998 to 1.017; blurred: nano 0.016 to 0.038
    "pal8": Demand(share=0.97, least=0.004),  # emulated: kept: nano 0.999 to 1.000; blurred: 0.001 to 0.002
    "pal6": Demand(share=0.95, least=0.015),  # emulated: kept: nano 0.994 to 1.002; blurred: 0.005 to 0.010
    "pal4": Demand(share=0.8, least=0.06),  # emulated, every layer: kept: nano 0.967 to 1.017; blurred: 0.022 to 0.046
}
COMPUTE_REACTIONS: dict[Compute, Demand] = {
    "fp32": WEIGHT_REACTIONS["fp32"],
    "fp16": Demand(share=0.98, least=0.004),  # not measured; between float32 and int8, as the bars above
    "bf16": Demand(share=0.95, least=0.02),  # not measured; as int8
    "whole-bf16": Demand(share=0.95, least=0.02),  # kept: nano 0.998 to 1.004; cosines 0.975 of the portrait's change and above
    "fp16-sums": Demand(share=0.95, least=0.02),  # as bfloat16
}

FLOWS_INTO_LATENTS = (
    "audio_encoder",
    "image_encoder",
    "text_encoder",
    "vae_encode",
    *CONDITION_PROGRAMS,
    "denoise",
    "denoise_reusing",
)
WITHOUT_PRODUCTS = (DECODE_PROGRAMS["tiny"],)  # convolutions alone: the type of products between activations is nothing to it


def bar(program: str, layers: Mapping[str, int], computes: Compute) -> Figures:
    """What `program` has to reach whose layers got these weights (scheme -> count, as an export gathers them).

    Raises:
        ConfigError: a scheme has no bar.
    """
    for scheme in layers:
        check_choice("weights", scheme, tuple(WEIGHT_BARS))
    if computes in ("bf16", "whole-bf16") and program in WITHOUT_PRODUCTS:
        computes = "fp32"
    used = [WEIGHT_BARS[scheme] for scheme, count in layers.items() if count]  # type: ignore[index]
    computed = HALF_TINY if computes == "fp16" and program in WITHOUT_PRODUCTS else COMPUTE_BARS[computes]
    return lowest([EXACT, *used, computed])


def clip_bars(layers: Mapping[str, Mapping[str, int]], computes: Compute) -> dict[str, Figures]:
    """The demands on a whole clip of a bundle's programs (role -> scheme -> count): "latents", and "frames" of the decoder that is
    played by default; none where they do not make a clip."""
    bars = {name: bar(name, counts, computes) for name, counts in layers.items()}
    flow = [bars[name] for name in FLOWS_INTO_LATENTS if name in bars]
    decoder = next((bars[name] for name in DECODE_PROGRAMS.values() if name in bars), None)
    if not flow or decoder is None:
        return {}
    latents, seen = lowest(flow), lowest([*flow, decoder]).psnr_db
    assert seen is not None
    return {"latents": latents, "frames": Figures(psnr_db=min(seen - FRAMES_LOSE, FRAMES_END))}


def reaction_bar(layers: Mapping[str, Mapping[str, int]], computes: Compute) -> Demand:
    """What has to be kept of the change that an input makes, by a bundle of these programs (role -> scheme -> count): what the
    coarsest weights between an input and the velocity allow, and the type that they compute in."""
    schemes = {scheme for name in FLOWS_INTO_LATENTS for scheme, count in layers.get(name, {}).items() if count}
    asked = [COMPUTE_REACTIONS[computes], *(WEIGHT_REACTIONS[scheme] for scheme in schemes)]  # type: ignore[index]
    return Demand(share=min(each.share for each in asked), least=max(each.least for each in asked))
