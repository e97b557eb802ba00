"""core/model/pretrained*.py: the released files' tensors and sizes, how they get into modules, the portrait encoder, and export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.model.pretrained import EncoderConfig
from echoedge.core.model.pretrained_image import CLIP_VIT_H, PictureEncoderConfig
from echoedge.core.model.pretrained_speech import WAV2VEC2_BASE, SpeechEncoderConfig
from echoedge.core.model.pretrained_text import UMT5_XXL, PromptEncoderConfig

PROMPT = PromptEncoderConfig(vocab=50, dim=24, attention_dim=16, ffn_dim=40, heads=4, layers=2, buckets=8, max_distance=16)
PICTURE = PictureEncoderConfig(image_size=16, patch=4, dim=24, heads=3, layers=3, mlp_dim=40)
SPEECH = SpeechEncoderConfig(
    dim=24, layers=3, heads=3, ffn_dim=40, conv_dims=(12, 10, 12, 8, 12, 12, 14), position_kernel=16, position_groups=4
)
TINY: list[EncoderConfig] = [PROMPT, PICTURE, SPEECH]
POSITION_CONV = "encoder.pos_conv_embed.conv"
every_encoder = pytest.mark.parametrize("config", TINY, ids=["prompt", "picture", "speech"])


def random_tensors(config: EncoderConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A file's tensors: norms around 1, the rest of a size that keeps layers apart from the identity."""
    tensors = {}
    for name, shape in config.tensors().items():
        noise = torch.randn(shape)
        if "norm" in name and name.endswith("weight"):
            tensors[name] = 1 + 0.3 * noise
        else:
            tensors[name] = noise * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 and "embedding" not in name else 0.5)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def outputs(config: EncoderConfig, module: Any) -> Tensor:
    """What the encoder makes of some fixed input."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        if isinstance(config, PromptEncoderConfig):
            ids = torch.randint(config.vocab, (2, 9), generator=generator)
            return module(ids, torch.ones_like(ids))
        if isinstance(config, PictureEncoderConfig):
            return module(torch.rand(2, 3, 20, 26, generator=generator) * 2 - 1)
        return module.per_frame(torch.randn(2, 3200, generator=generator), 5)


# ---- released files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names", "stored", "executed"),
    [(UMT5_XXL, 242, 5_680_910_336, 5_680_910_336), (CLIP_VIT_H, 377, 611_086_080, 611_086_080),
     (WAV2VEC2_BASE, 210, 94_371_712 - 768, 94_371_712 - 768 - 128)],
    ids=["umT5-XXL", "CLIP ViT-H", "wav2vec2-base"],
)  # fmt: skip
def test_full_size(config: EncoderConfig, names: int, stored: int, executed: int) -> None:
    """wav2vec2's file also has the 768 numbers of a mask for training, and folding its weight norm saves 128 lengths."""
    shapes = config.tensors()
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (names, stored)
    module = config.build({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert sum(parameter.numel() for parameter in module.parameters()) == executed


def test_the_visual_tower_stores_a_block_a_norm_and_a_projection_more_than_it_runs() -> None:
    shapes = CLIP_VIT_H.tensors()
    block = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("visual.transformer.0."))
    assert sum(map(math.prod, shapes.values())) + block + 2 * 1280 + 1280 * 1024 == 632_076_800
    for name in (
        "visual.transformer.31.mlp.0.weight",
        "visual.post_norm.bias",
        "visual.head",
        "log_scale",
        "textual.head.0.weight",
    ):
        assert CLIP_VIT_H.ignored(name), name
    for name in (
        "visual.transformer.30.mlp.0.weight",
        "visual.transformer.3.norm1.bias",
        "visual.headlight",
        "visual.pre_norm.bias",
    ):
        assert CLIP_VIT_H.ignored(name) is None, name


@pytest.mark.parametrize("head", ["Wav2Vec2Model", "Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"])
@pytest.mark.parametrize("spelling", ["old", "new"])
def test_speech_tensors_are_the_librarys_in_every_layout(head: str, spelling: str) -> None:
    import transformers

    with torch.device("meta"):
        file = getattr(transformers, head)(transformers.Wav2Vec2Config()).state_dict()
    if spelling == "old":
        parametrised = ("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")
        for new, old in parametrised:
            file = {name.replace(new, old): tensor for name, tensor in file.items()}
    kept, left = WAV2VEC2_BASE.select(file)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == WAV2VEC2_BASE.tensors()
    prefix = "" if head == "Wav2Vec2Model" else "wav2vec2."
    expected = {
        "Wav2Vec2Model": set(),
        "Wav2Vec2ForCTC": {"lm_head.weight", "lm_head.bias"},
        "Wav2Vec2ForPreTraining": {
            "quantizer.codevectors", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias", "project_hid.weight",
            "project_hid.bias", "project_q.weight", "project_q.bias",
        },
    }  # fmt: skip
    assert set(left) == expected[head] | {f"{prefix}masked_spec_embed"}
    assert all("not used" in reason or "training only" in reason for reason in left.values())


def test_prompt_tensors_are_not_left_aside() -> None:
    assert not [name for name in (*UMT5_XXL.tensors(), "lm_head.weight") if UMT5_XXL.ignored(name)]


def test_a_tensor_in_two_spellings_is_refused() -> None:
    tensors = random_tensors(SPEECH)
    name = "encoder.layer_norm.bias"
    with pytest.raises(CheckpointError, match=rf"{name} of the speech encoder .* twice, once as wav2vec2\.{name}"):
        SPEECH.select(tensors | {f"wav2vec2.{name}": tensors[name]})


# ---- from file to module ---------------------------------------------------------------------------------------------------------


@every_encoder
def test_a_wrong_set_of_tensors_is_refused(config: EncoderConfig) -> None:
    tensors = random_tensors(config)
    name = next(iter(tensors))
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(CheckpointError, match=rf"{len(tensors)} tensors of the .*: 1 missing \({name}\)\. Check"):
        config.build(without)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(surplus\.weight\)"):
        config.build(tensors | {"surplus.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 of another shape \(.* is \[7\], not \[\d"):
        config.build(tensors | {name: torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"1 missing \(.*\); 1 unexpected \(surplus\)"):
        config.build(without | {"surplus": tensors[name]})
    with pytest.raises(CheckpointError, match=r"missing \((.*, ){3}…\)"):
        config.build({})


@every_encoder
@pytest.mark.parametrize("mapped", [False, True])
def test_tensors_are_not_copied(config: EncoderConfig, mapped: bool, tmp_path: Path) -> None:
    tensors = random_tensors(config)
    expected = outputs(config, config.build(tensors))
    if mapped:
        torch.save(tensors, tmp_path / "weights.pth")
        tensors = torch.load(tmp_path / "weights.pth", mmap=True, weights_only=True)
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    module = config.build(tensors)
    own = {name for name, parameter in module.named_parameters() if parameter.untyped_storage().data_ptr() not in given}
    assert own == ({f"{POSITION_CONV}.weight"} if config is SPEECH else set())
    assert not list(module.buffers())
    assert torch.equal(outputs(config, module), expected)


def test_fused_queries_keys_and_values_are_views() -> None:
    tensors = random_tensors(PICTURE)
    attention: Any = PICTURE.build(tensors).blocks[1].self_attn
    for index, part in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
        for kind in ("weight", "bias"):
            rows = tensors[f"visual.transformer.1.attn.to_qkv.{kind}"][24 * index : 24 * (index + 1)]
            assert getattr(part, kind).data_ptr() == rows.data_ptr()
            assert torch.equal(getattr(part, kind), rows)


@every_encoder
def test_a_module_is_ready_to_infer(config: EncoderConfig) -> None:
    module = config.build(random_tensors(config))
    assert not module.training and not any(child.training for child in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    before = torch.get_rng_state()
    first = outputs(config, module)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn
    assert torch.equal(outputs(config, module), first)


@every_encoder
def test_tensors_keep_their_type(config: EncoderConfig) -> None:
    tensors = random_tensors(config, torch.bfloat16)
    module = config.build(tensors)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    half = outputs(config, module)
    full = outputs(config, config.build({name: tensor.float() for name, tensor in tensors.items()}))
    assert half.dtype == torch.bfloat16
    error = (half.float() - full).norm() / full.norm()
    assert 0 < error < 0.03  # measured: 0.0116 prompt, 0.0043 picture, 0.0040 speech


@every_encoder
def test_every_tensor_counts(config: EncoderConfig) -> None:
    tensors = random_tensors(config)
    before = outputs(config, config.build(tensors))
    for name, tensor in tensors.items():
        bias_of_keys = name.endswith("k_proj.bias")  # shifts all logits of a query alike
        moved = outputs(config, config.build(tensors | {name: tensor + 0.3 * torch.randn(tensor.shape)}))
        assert ((moved - before).abs().max() > 1e-3) != bias_of_keys, name


def test_shared_positions_are_one_table() -> None:
    config = replace(PROMPT, shared_positions=True)
    tensors = random_tensors(config)
    module = config.build(tensors)
    assert sum(p.numel() for p in module.parameters()) == sum(t.numel() for t in tensors.values())
    apart = {name: tensor for name, tensor in tensors.items() if not name.startswith("pos_embedding")}
    apart |= {f"blocks.{i}.pos_embedding.embedding.weight": tensors["pos_embedding.embedding.weight"] for i in range(2)}
    assert torch.equal(outputs(config, module), outputs(PROMPT, PROMPT.build(apart)))
    apart["blocks.1.pos_embedding.embedding.weight"] = torch.zeros(8, 4)
    assert (outputs(config, module) - outputs(PROMPT, PROMPT.build(apart))).abs().max() > 0.01


# ---- portrait --------------------------------------------------------------------------------------------------------------------


def clip_vision_model(tensors: dict[str, Tensor], config: PictureEncoderConfig) -> Any:
    """The library's whole tower with these weights; its last block, which the file may lack, is random."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.dim, intermediate_size=config.mlp_dim, num_hidden_layers=config.layers, hidden_act="gelu",
            num_attention_heads=config.heads, image_size=config.image_size, patch_size=config.patch, layer_norm_eps=config.eps,
        )
    ).eval()  # fmt: skip
    vision = model.vision_model
    vision.embeddings.class_embedding.data = tensors["visual.cls_embedding"].flatten()
    vision.embeddings.position_embedding.weight.data = tensors["visual.pos_embedding"][0]
    vision.embeddings.patch_embedding.weight.data = tensors["visual.patch_embedding.weight"]

    def put(layer: nn.Module, name: str, rows: slice = slice(None)) -> None:
        layer.weight.data, layer.bias.data = tensors[f"visual.{name}.weight"][rows], tensors[f"visual.{name}.bias"][rows]

    put(vision.pre_layrnorm, "pre_norm")
    for i, layer in enumerate(vision.encoder.layers[:-1]):
        for j, part in enumerate((layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)):
            put(part, f"transformer.{i}.attn.to_qkv", slice(j * config.dim, (j + 1) * config.dim))
        put(layer.self_attn.out_proj, f"transformer.{i}.attn.proj")
        put(layer.layer_norm1, f"transformer.{i}.norm1")
        put(layer.layer_norm2, f"transformer.{i}.norm2")
        put(layer.mlp.fc1, f"transformer.{i}.mlp.0")
        put(layer.mlp.fc2, f"transformer.{i}.mlp.2")
    return model


@torch.no_grad()
def test_tokens_are_the_librarys_before_the_last_block() -> None:
    tensors = random_tensors(PICTURE)
    module, picture = PICTURE.build(tensors), torch.rand(2, 3, 20, 26) * 2 - 1
    library = clip_vision_model(tensors, PICTURE)(module.preprocess(picture), output_hidden_states=True)
    ours = module(picture)
    assert ours.shape == (2, PICTURE.tokens, 24)
    torch.testing.assert_close(ours, library.hidden_states[-2], rtol=0, atol=2e-5)  # measured: equal
    assert (ours - library.last_hidden_state).abs().max() > 0.01  # the last block executed


@torch.no_grad()
def test_pictures_are_resized_without_antialiasing_and_normalised() -> None:
    module, picture = PICTURE.build(random_tensors(PICTURE)), torch.rand(1, 3, 40, 56) * 2 - 1
    ours = module.preprocess(picture)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )

    def theirs(antialias: bool) -> Tensor:
        resized = F.interpolate((picture + 1) / 2, (16, 16), mode="bicubic", antialias=antialias)
        return (resized - mean) / std

    torch.testing.assert_close(ours, theirs(antialias=False), rtol=0, atol=1e-5)  # measured: 9.5e-7 of 2.6
    assert (ours - theirs(antialias=True)).abs().max() > 0.1
    assert torch.equal(module.preprocess(picture.bfloat16()), module.preprocess(picture.bfloat16().float()))


# ---- export ----------------------------------------------------------------------------------------------------------------------


class Calling(nn.Module):
    def __init__(self, module: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, x)


PROGRAMS: dict[str, tuple[EncoderConfig, Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "picture": (PICTURE, lambda module, x: module(x), (1, 3, 20, 26)),
    "speech per frame": (SPEECH, lambda module, x: module.per_frame(x, 5), (1, 3200)),
    "speech per token": (SPEECH, lambda module, x: module.per_token(x), (1, 3200)),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_encoders_export(name: str, attention: str) -> None:
    config, call, shape = PROGRAMS[name]
    module: Any = config.build(random_tensors(config))
    for child in module.modules():
        if hasattr(child, "config") and hasattr(child.config, "_attn_implementation"):
            child.config._attn_implementation = attention
    program = torch.export.export(Calling(module, call).eval(), (torch.zeros(shape),))
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), call(module, x), rtol=0, atol=2e-5)  # measured: equal

    def operators(program: torch.export.ExportedProgram) -> set[str]:
        return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}

    assert ("aten.scaled_dot_product_attention.default" in operators(program)) == (attention == "sdpa")
    assert not [operator for operator in operators(program.run_decompositions()) if "rand" in operator or "dropout" in operator]


# ---- configurations --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptEncoderConfig(layers=0), "layers is 0; it must be a whole number, at least 1"),
        (lambda: PromptEncoderConfig(vocab="many"), "vocab is 'many'"),  # type: ignore[arg-type]
        (lambda: PromptEncoderConfig(attention_dim=100), "attention_dim 100 does not divide into 64 heads"),
        (lambda: PictureEncoderConfig(heads=3), "dim 1280 does not divide into 3 heads"),
        (lambda: PictureEncoderConfig(image_size=7), "image_size 7 is smaller than one patch of 14"),
        (lambda: SpeechEncoderConfig(heads=5), "dim 768 does not divide into 5 heads"),
        (lambda: SpeechEncoderConfig(position_groups=5), "dim 768 does not divide into 5 position groups"),
        (lambda: SpeechEncoderConfig(conv_dims=(512,)), r"conv_dims \(512,\), conv_kernels .* equally many"),
        (lambda: SpeechEncoderConfig(conv_strides=(0,) * 7), "each at least 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(make: Callable[[], EncoderConfig], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_speech_folders_configuration_is_read() -> None:
    from transformers import Wav2Vec2Config

    assert SpeechEncoderConfig.from_hugging_face(json.loads(Wav2Vec2Config().to_json_string(use_diff=False))) == WAV2VEC2_BASE
    assert SpeechEncoderConfig.from_hugging_face({}) == WAV2VEC2_BASE
    other = {"hidden_size": 1024, "num_attention_heads": 16, "conv_dim": [256] * 7, "num_conv_pos_embeddings": 64}
    config = SpeechEncoderConfig.from_hugging_face(other)
    assert (config.dim, config.heads, config.conv_dims, config.position_kernel, config.layers) == (1024, 16, (256,) * 7, 64, 12)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm is True; this speech encoder has False"),
        ({"feat_extract_norm": "layer"}, "feat_extract_norm is 'layer'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"conv_dim": 512}, "no configuration of a wav2vec2"),
        ({"conv_dim": ["a"] * 7}, "no configuration of a wav2vec2"),
        ({"hidden_size": 0}, "dim is 0"),
    ],
)
def test_another_speech_architecture_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechEncoderConfig.from_hugging_face(data)
