"""targets/rewrites/portrait.py: resizing is two matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from echoedge.core.config import ClipSpec
from echoedge.core.model.pretrained_image import PictureEncoder
from echoedge.core.model.programs import image_encoder_program
from echoedge.targets.rewrites.portable import make_portable
from echoedge.targets.rewrites.portrait import resize_matrix

from ...core.tiny import randomised
from .common import PICTURE, relative


@pytest.mark.parametrize(("height", "width", "target"), [(32, 48, 28), (16, 80, 28), (48, 16, 7), (28, 28, 28)])
def test_resizing_is_two_matrices(height: int, width: int, target: int) -> None:
    picture = torch.rand(1, 3, height, width) * 2 - 1
    theirs = F.interpolate(picture, size=(target, target), mode="bicubic", align_corners=False)
    rows, columns = resize_matrix(height, target), resize_matrix(width, target)
    assert relative(rows @ picture @ columns.T, theirs) < 1e-5  # measured: 5e-7
    assert torch.allclose(rows.sum(1), torch.ones(target), atol=1e-6)
    if (height, width) != (target, target):
        assert relative(rows @ picture @ columns.T, F.interpolate(picture, size=(target, target), mode="bilinear")) > 0.01


@pytest.mark.parametrize("size", [(32, 48), (16, 16)])
@torch.no_grad()
def test_portraits_become_the_same_tokens(size: tuple[int, int]) -> None:
    encoder = randomised(PictureEncoder(PICTURE))
    method = image_encoder_program(encoder, ClipSpec(*size, 9))["forward"]
    portrait = method.inputs["portrait"]
    ours, theirs = make_portable(method.module), encoder(portrait)
    assert relative(ours(portrait), theirs) < 1e-5  # measured: 2e-6
    ours.rows = ours.rows.flip(0)
    assert relative(ours(portrait), theirs) > 1e-2
