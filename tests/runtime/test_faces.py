"""runtime/play/faces.py: a real face is found where it is, pictures without one have none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from echoedge.runtime.play.faces import find_faces

# The face of scikit-image's photograph (NASA, public domain), by eye: from the brows to the chin.
MIDDLE, SIZE = (115, 222), 100


def photograph() -> Image.Image:
    """512 × 512, a face above its middle."""
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


@pytest.mark.parametrize("place", [(0, 0), (200, 0), (0, 600), (300, 700)])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_face_is_found_where_it_is(place: tuple[int, int], scale: int) -> None:
    scene = Image.new("RGB", (900, 1300), (90, 110, 140))
    scene.paste(photograph(), place)
    faces = find_faces(scene.resize((900 * scale, 1300 * scale)))
    assert faces is not None
    assert len(faces) == 1
    (face,) = faces
    middle = (face.top + face.size / 2) / scale, (face.left + face.size / 2) / scale
    assert np.abs(np.subtract(middle, (MIDDLE[0] + place[1], MIDDLE[1] + place[0]))).max() < SIZE / 4
    assert 0.7 < face.size / scale / SIZE < 1.5


def test_the_largest_is_the_first() -> None:
    scene = Image.new("RGB", (900, 512), (90, 110, 140))
    scene.paste(photograph().crop((120, 0, 380, 300)).resize((390, 450)), (480, 20))
    scene.paste(photograph().crop((120, 0, 380, 300)), (60, 40))
    faces = find_faces(scene)
    assert faces is not None
    assert len(faces) == 2
    assert faces[0].size > faces[1].size
    assert faces[0].left > 480 > faces[1].left


def test_pictures_without_a_face() -> None:
    pytest.importorskip("skimage")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    slope = np.linspace(0, 255, 400).astype(np.uint8)[None, :, None].repeat(300, 0).repeat(3, 2)
    for pixels in (noise, slope, slope[:, :1].repeat(16, 1)):
        assert find_faces(Image.fromarray(pixels)) == []
    assert find_faces(photograph().rotate(180)) == []  # upside down


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert find_faces(Image.new("RGB", (64, 64))) is None
