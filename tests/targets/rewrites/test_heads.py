"""targets/rewrites/heads.py: attention of the library's layers."""

from __future__ import annotations

import copy

import pytest
import torch

from echoedge.core.model.pretrained_image import PictureEncoder
from echoedge.core.model.pretrained_speech import SpeechEncoder
from echoedge.targets.rewrites.heads import PortableHeads

from ...core.tiny import randomised
from .common import PICTURE, SPEECH, relative


@pytest.mark.parametrize("kind", ["CLIP", "wav2vec2"])
@torch.no_grad()
def test_attention_of_the_librarys_layers(kind: str) -> None:
    attention, results = {
        "CLIP": lambda: (PictureEncoder(PICTURE).blocks[0].self_attn, 2),
        "wav2vec2": lambda: (SpeechEncoder(SPEECH).encoder.layers[0].attention, 3),
    }[kind]()
    randomised(attention)
    x = torch.randn(2, 7, 24)
    masks = {"attention_mask": None} | ({"causal_attention_mask": None} if kind == "CLIP" else {})
    theirs = attention(hidden_states=x, **masks)
    ours = PortableHeads(copy.deepcopy(attention), results)
    found = ours(hidden_states=x, **masks)
    assert len(found) == len(theirs) == results
    assert relative(found[0], theirs[0]) < 1e-5  # measured: 1.7e-7
    ours.heads = 1
    assert relative(ours(hidden_states=x)[0], theirs[0]) > 1e-3
