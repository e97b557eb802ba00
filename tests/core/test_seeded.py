"""core/weights/seeded.py: a seed's weights are those of the folder that is written of it, bit for bit, and have one name."""

from __future__ import annotations

import pytest
import torch

from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.model.architecture import ComponentName
from echoedge.core.weights.checkpoints import Checkpoint, load_speech_encoder, load_transformer
from echoedge.core.weights.random_checkpoint import write_random_checkpoint
from echoedge.core.weights.seeded import SeededWeights, tensors_sha256, weights_sha256

from .tiny_checkpoint import tiny_sizes

SIZES = tiny_sizes("flash")
DRAWN: tuple[ComponentName, ...] = ("transformer", "vae", "clip", "wav2vec2", "tiny_vae")
# Of seed 7 at these sizes: whichever machine and build of torch runs this has to draw the same.
KNOWN = {
    "transformer": "a8753d131d654cc90a9063b6e34a36b993307746d703268aca4606312bacf228",
    "vae": "9dc75b7c8af12590c8d42a297a75d6aa00223c3c94edfcdb6d1aa6605cc57172",
    "clip": "b55b62cf66f0cc1e63dc0584a83710e41cc33d63562a95927d2a7415d184325b",
    "wav2vec2": "ea8d4ddb18b3bc7e86310010c7120a426bf7e976e6aed4cf935fadcab02984ea",
    "tiny_vae": "8714e979d4bb355c38a4bbc1ae9503fa63b295e5321dcd0074b536ded5513134",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("seeded") / "flash"
    write_random_checkpoint(path, "flash", DRAWN, seed=7, architecture=SIZES)
    return Checkpoint.open(path)


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_is_the_folder_that_is_written_of_it(name: ComponentName, folder: Checkpoint) -> None:
    layout = SIZES.layout(name)
    assert layout is not None
    drawn = SeededWeights(SIZES, 7).tensors(name, layout, lambda _: torch.float32)
    read = folder.tensors(name, layout, lambda _: torch.float32)
    assert drawn.keys() == read.keys()
    assert all(torch.equal(drawn[key], read[key]) for key in read)
    other = SeededWeights(SIZES, 8).tensors(name, layout, lambda _: torch.float32)
    assert not any(torch.equal(other[key], read[key]) for key in read if read[key].numel() > 1)


@pytest.mark.parametrize("name", DRAWN)
def test_the_numbers_have_one_name_wherever_they_are(name: ComponentName, folder: Checkpoint) -> None:
    layout = SIZES.layout(name)
    assert layout is not None
    found = weights_sha256(SeededWeights(SIZES, 7), name, layout)
    assert found == weights_sha256(folder, name, layout) == KNOWN[name]
    tensors = folder.tensors(name, layout, lambda _: torch.float32)
    assert tensors_sha256(tensors) == found
    key = next(iter(tensors))
    assert tensors_sha256(tensors | {key: torch.nextafter(tensors[key], torch.tensor(9e9))}) != found
    assert weights_sha256(SeededWeights(SIZES, 8), name, layout) != found


def test_loaders_take_a_seed_as_they_take_a_folder(folder: Checkpoint) -> None:
    seeded = SeededWeights(SIZES, 7)
    for load, config in ((load_transformer, SIZES.transformer), (load_speech_encoder, SIZES.wav2vec2)):
        ours, theirs = (load(weights, torch.float32, "cpu", config).state_dict() for weights in (seeded, folder))  # type: ignore[operator]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_no_seed_has_is_refused() -> None:
    layout = SIZES.layout("text_encoder")
    assert layout is not None
    with pytest.raises(CheckpointError, match="Weights of a seed have no text_encoder"):
        SeededWeights(SIZES, 0).tensors("text_encoder", layout, lambda _: torch.float32)
    with pytest.raises(ConfigError, match="seed"):
        SeededWeights(SIZES, 1 << 64)
