"""runtime/play/cropping.py and what pictures.py makes of it: which part of a portrait is kept, and what is said about it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echoedge.core.errors import InputError
from echoedge.core.model.masks import Box
from echoedge.runtime.play import pictures
from echoedge.runtime.play.cropping import Crop, Part, cut_sentence, is_cut, largest_part, place_part, within_crop
from echoedge.runtime.play.faces import Face
from echoedge.runtime.play.pictures import Portrait, read_portrait_pixels


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)


def stripes(height: int, width: int) -> np.ndarray:
    """Every row tells its number in red and every column its own in green: uint8 [height, width, 3], sides below 256."""
    rows, columns = np.arange(height, dtype=np.uint8)[:, None], np.arange(width, dtype=np.uint8)[None]
    return np.stack(np.broadcast_arrays(rows, columns, np.uint8(90)), axis=-1)


def written(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


# --- 1. where the part lies -------------------------------------------------------------------------------------------------------


def test_a_tall_picture_loses_a_tenth_of_the_cut_at_the_top() -> None:
    part = place_part(largest_part(1600, 900, 256, 256), 1600, 900, ())
    assert part == Part(70.0, 0.0, 900.0, 900.0)
    assert largest_part(1600, 900, 256, 256).top == 350.0  # the centred part


def test_a_wide_picture_is_cropped_in_the_middle() -> None:
    assert place_part(largest_part(900, 1600, 256, 256), 900, 1600, ()) == Part(0.0, 350.0, 900.0, 900.0)


@pytest.mark.parametrize("top", [0, 200, 500, 1400])
def test_the_face_is_kept_in_a_tall_picture(top: int) -> None:
    face = Face(top, 300, 200)
    part = place_part(largest_part(1600, 900, 256, 256), 1600, 900, [face])
    assert part.top <= face.top
    assert part.bottom >= face.top + face.size
    assert 0 <= part.top <= 700
    if top == 500:
        assert (face.top + face.size / 2 - part.top) / part.height == pytest.approx(0.45)


@pytest.mark.parametrize("left", [0, 700, 1350])
def test_the_face_is_kept_in_a_wide_picture(left: int) -> None:
    face = Face(100, left, 250)
    part = place_part(largest_part(900, 1600, 256, 256), 900, 1600, [face])
    assert part.left <= left
    assert part.right >= left + 250
    centred = largest_part(900, 1600, 256, 256)
    assert (centred.left <= left and centred.right >= left + 250) == (left == 700)


@pytest.mark.parametrize(("sides", "cut"), [((1000, 1000), False), ((1000, 960), False), ((1000, 940), True), ((900, 1600), True)])
def test_what_multiples_of_16_leave_over_is_not_worth_a_word(sides: tuple[int, int], cut: bool) -> None:
    assert is_cut(largest_part(*sides, 256, 256), *sides) == cut


# --- 2. files ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_library")
def test_a_tall_file(tmp_path: Path) -> None:
    said: list[str] = []
    pixels = read_portrait_pixels(written(tmp_path / "a.png", stripes(200, 100)), 100, 100, warn=said.append)
    np.testing.assert_array_equal(pixels, stripes(200, 100)[10:110])
    assert said == [
        f"The portrait {tmp_path / 'a.png'} is cropped to 100x100: 10 of 200 rows at the top and 90 at the bottom are cut off; "
        'no face was looked for (pip install "echoedge[face]" does). Choose the part with --crop TOP,LEFT,SIZE.'
    ]


@pytest.mark.usefixtures("no_library")
def test_a_wide_file(tmp_path: Path) -> None:
    said: list[str] = []
    pixels = read_portrait_pixels(written(tmp_path / "a.png", stripes(100, 250)), 100, 100, warn=said.append)
    np.testing.assert_array_equal(pixels, stripes(100, 250)[:, 75:175])
    assert len(said) == 1
    assert "75 of 250 columns on the left and 75 on the right are cut off" in said[0]


def test_a_file_of_the_clips_aspect_is_taken_whole_and_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "find_faces", lambda _: pytest.fail("a face was looked for"))
    said: list[str] = []
    for height, width in ((200, 100), (200, 96), (196, 100)):
        image = stripes(height, width)
        pixels = read_portrait_pixels(written(tmp_path / "a.png", image), 100, 50, warn=said.append)
        scale = min(width / 50, height / 100)
        box = ((width - 50 * scale) / 2, (height - 100 * scale) / 2, (width + 50 * scale) / 2, (height + 100 * scale) / 2)
        np.testing.assert_array_equal(
            pixels, np.asarray(Image.fromarray(image).resize((50, 100), Image.Resampling.LANCZOS, box=box))
        )
    assert said == []


@pytest.mark.parametrize("at", [0, 600, 1024])
def test_the_face_of_a_tall_photograph_is_kept(at: int, tmp_path: Path) -> None:
    """The photograph of test_faces.py, somewhere in a tall picture; the centred part cuts the face off, but in the middle."""
    tall = np.full((1536, 512, 3), 110, np.uint8)
    tall[at : at + 512] = pytest.importorskip("skimage.data").astronaut()
    said: list[str] = []
    part = Portrait.open(written(tmp_path / "a.png", tall), said.append).part(256, 256)
    chin = at + 170
    assert part.top <= at + 60
    assert part.bottom >= chin
    centred = largest_part(1536, 512, 256, 256)
    assert (centred.top <= at + 60 and centred.bottom >= chin) == (at == 600)
    assert len(said) == 1
    assert "the face is kept" in said[0]


def test_a_picture_without_a_face_says_so(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    said: list[str] = []
    pixels = read_portrait_pixels(written(tmp_path / "a.png", stripes(200, 100)), 100, 100, warn=said.append)
    np.testing.assert_array_equal(pixels, stripes(200, 100)[10:110])
    assert len(said) == 1
    assert "no face was found" in said[0]


def test_of_several_faces_the_largest_is_named() -> None:
    part = Part(0, 0, 100, 100)
    sentence = cut_sentence("a.png", part, 200, 100, "64x64", [Face(0, 0, 30), Face(50, 50, 20)])
    assert "the largest of 2 faces is kept" in sentence
    assert "the face is kept" in cut_sentence("a.png", part, 200, 100, "64x64", [Face(0, 0, 30)])


def test_large_jpegs_are_cut_where_small_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG of more than 24 million pixels is decoded to a part of them; faces and parts are in those of the file."""
    Image.fromarray(stripes(100, 50)).resize((3600, 7200), Image.Resampling.BILINEAR).save(tmp_path / "a.jpg")
    looked: list[tuple[int, int]] = []

    def found(image: Image.Image) -> list[Face]:
        looked.append(image.size)
        return [Face(0.7 * image.height, 0, 0.1 * image.height)]

    monkeypatch.setattr(pictures, "find_faces", found)
    said: list[str] = []
    portrait = Portrait.open(tmp_path / "a.jpg", said.append, enough=400)
    assert portrait.size == (7200, 3600)
    part = portrait.part(100, 100)
    assert looked == [(450, 900)]
    assert part == Part(3600.0, 0.0, 3600.0, 3600.0)
    rows = portrait.pixels(100, 100)[:, 50, 0].astype(int)
    assert abs(rows[0] - 50) <= 2
    assert abs(rows[-1] - 99) <= 2


# --- 3. --crop --------------------------------------------------------------------------------------------------------------------


def test_the_users_part_is_taken(tmp_path: Path) -> None:
    path, said = written(tmp_path / "a.png", stripes(200, 250)), []
    for height, width, crop in ((64, 64, Crop(30, 40, 64)), (64, 128, Crop(136, 122, 64)), (128, 64, Crop(0, 0, 128))):
        expected = stripes(200, 250)[crop.top : crop.top + height, crop.left : crop.left + width]
        np.testing.assert_array_equal(read_portrait_pixels(path, height, width, crop, said.append), expected)
    assert said == []


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        (Crop(137, 0, 64), r"--crop 137,0,64 ends at row 201 and column 64, but the portrait has 200 rows and 250 columns"),
        (Crop(0, 187, 64), "ends at row 64 and column 251"),
        (Crop(0, 0, 201), "ends at row 201"),
        (Crop(1000, 1000, 16), "ends at row 1016 and column 1016"),
    ],
)
def test_parts_beyond_the_picture(crop: Crop, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", stripes(200, 250))
    with pytest.raises(InputError, match=words):
        read_portrait_pixels(path, 64, 64, crop)
    with pytest.raises(InputError, match="Give TOP,LEFT,SIZE within it"):
        Portrait.open(path, crop=crop)


def test_parts_that_a_wide_clip_makes_too_wide(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", stripes(200, 250))
    with pytest.raises(InputError, match="ends at row 150 and column 300"):
        read_portrait_pixels(path, 64, 128, Crop(0, 0, 150))


@pytest.mark.parametrize("numbers", [(-1, 0, 64), (0, -1, 64), (0, 0, 15), (0, 0, -64)])
def test_parts_that_are_none(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=f"--crop is {','.join(map(str, numbers))}; top and left must be 0 at least, the size 16"):
        Crop(*numbers)


@pytest.mark.parametrize("numbers", [(1, 2), (1, 2, 3, 4), (0, 0, 64.5), ("0", "0", "64"), ()])
def test_what_is_not_three_numbers(numbers: tuple[int, ...]) -> None:
    assert Crop.of((1, 2, 64)) == Crop(1, 2, 64)
    with pytest.raises(InputError, match=r"give \(top, left, size\) as three whole numbers"):
        Crop.of(numbers)


def test_a_turned_pictures_part_is_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stripes(100, 200)).save(tmp_path / "a.png", exif=exif)
    upright = stripes(100, 200)[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(read_portrait_pixels(tmp_path / "a.png", 64, 64, Crop(130, 20, 64)), upright[130:194, 20:84])


def test_a_face_box_moves_with_the_part() -> None:
    assert within_crop(Box(40, 90, 50, 120), Crop(30, 60, 50)) == Box(10, 50, 0, 50)
    assert within_crop(Box(40, 60, 70, 90), Crop(30, 60, 50)) == Box(10, 30, 10, 30)
    with pytest.raises(InputError, match="--face 0,20,0,20 lies outside --crop 30,60,50"):
        within_crop(Box(0, 20, 0, 20), Crop(30, 60, 50))


# --- 4. the contact sheet ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_library")
def test_what_was_cut_off_is_shown_faded(tmp_path: Path) -> None:
    def shown(height: int, width: int, crop: Crop | None = None) -> np.ndarray:
        return Portrait.open(written(tmp_path / "a.png", stripes(height, width)), lambda _: None, crop).shown(64, 64)

    np.testing.assert_array_equal(shown(64, 64), stripes(64, 64))
    tall = shown(128, 64)
    assert tall.shape == (128, 64, 3)
    np.testing.assert_array_equal(tall[6:70], stripes(128, 64)[6:70])
    assert tall[70:].min() > 190
    assert tall[:6].min() > 190
    part = shown(128, 64, Crop(64, 0, 64))
    np.testing.assert_array_equal(part[64:], stripes(128, 64)[64:])
    assert part[:64].min() > 190
    np.testing.assert_array_equal(shown(64, 255), stripes(64, 255)[:, 96:160])  # too long to be shown whole
