"""Disks that are full, limits on files, disks that may not be written: one sentence, and nothing half under a final name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from echoedge.core.weights.nano import assets

from .full_disk import on_a_disk, told_on_a_disk

DEMO = assets() / "demo"

# Each way to write, on a disk or under a limit of 256 kB: what is raised, and what lies there then.
WAYS = """
import json, os, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import save_file
from echoedge.core.bundle import BundleWriter
from echoedge.core.errors import EchoEdgeError
from echoedge.core.files import atomic_file
from echoedge.core.train.checkpoint import save_checkpoint
from echoedge.core.train.pool import open_pool
from echoedge.core.work import WorkFolder
from echoedge.quantize.search import Journal
from echoedge.runtime.export.jobs import _answer
from echoedge.runtime.play.clips import ClipWriter

disk, noise = Path(sys.argv[1]), np.random.default_rng(0)
many = torch.from_numpy(noise.standard_normal(300_000).astype(np.float32))

def text():
    with atomic_file(disk / "out") as file:
        file.write_text("x" * 1_000_000)

def tensors():
    with atomic_file(disk / "out") as file:
        save_file({"many": many}, file)

def checkpoint():
    save_checkpoint(disk / "out", {"many": many})

def picture():
    with atomic_file(disk / "out") as file:
        Image.fromarray(noise.integers(0, 256, (500, 500, 3), np.uint8)).save(file, format="PNG")

def film():
    with ClipWriter(disk / "out", height=128, width=128, fps=25, audio=None) as writer:
        for _ in range(30):
            writer.write(noise.integers(0, 256, (128, 128, 3), np.uint8))

def bundle():
    with BundleWriter(disk / "out") as writer:
        writer.add_file("plan.json", sys.argv[2])

def journal():
    with WorkFolder(disk / "work", "search"):
        kept = Journal(disk / "work", {})
        while True:
            kept.add("x" * 10_000, {})

def log():
    with WorkFolder(disk / "work", "training"), (disk / "work" / "dit.log").open("a") as file:
        file.write("x" * 1_000_000)

def pool():
    with WorkFolder(disk / "work", "training"):
        open_pool(disk / "work" / "pool", 64)

def job():
    class Nothing(BaseModel):
        pass
    def work(_, folder):
        torch.save(many, (folder / "calls.pt").open("wb"))
        return Nothing()
    kind, what, content = _answer(work, None, disk, ())
    raise what(content)

told = {}
for way in (text, tensors, checkpoint, picture, film, bundle, journal, log, pool, job):
    try:
        way()
        told[way.__name__] = ["", "nothing was raised", []]
    except EchoEdgeError as error:
        told[way.__name__] = [type(error).__name__, str(error), sorted(os.listdir(disk))]
    for path in sorted(disk.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
print(json.dumps(told))
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (256_000, 256_000))\n"
SAYS = {
    "disk": ("The disk is full: ", "of disk is needed for "),
    "file": ("A file is larger than this disk or ulimit -f allows: ",),
}
KEPT = {"journal": ["work"], "log": ["work"], "pool": ["work"], "job": ["calls.pt"]}  # what goes on; others leave nothing


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "a disk").mkdir()
    return tmp_path / "a disk"


@pytest.mark.parametrize("limit", ["disk", "file"])
def test_every_way_to_write_ends_in_one_sentence(limit: str, disk: Path, bundle_path: Path) -> None:
    """A full disk, and a limit on a file's size, which other disks have, too."""
    script, options = (WAYS, "size=256k") if limit == "disk" else (LIMITED + WAYS, "size=64m")
    large = bundle_path / "programs" / "audio_encoder.pte"
    told = told_on_a_disk(disk, options, script, large)
    assert told.keys() >= KEPT.keys() and len(told) == 10
    for way, (kind, sentence, left) in told.items():
        assert kind == "ResourceError", (way, sentence)
        assert any(part in sentence for part in SAYS[limit]), (way, sentence)
        assert sentence.endswith(("another disk.", "goes on.")) and "\n" not in sentence, (way, sentence)
        assert left == KEPT.get(way, []), (way, left)


# A film is written, and then moved by as much as its table of contents takes: disks that fill up at every point of both.
FILM = """
import json, os, subprocess, sys
from pathlib import Path
import numpy as np
from echoedge.core.errors import ResourceError
from echoedge.runtime.play.clips import ClipWriter

disk, noise, page = Path(sys.argv[1]), np.random.default_rng(0), 4096
frames = noise.integers(0, 256, (9, 64, 64, 3), np.uint8)
wave = noise.standard_normal(9 * 640).astype(np.float32) / 10

def film():
    with ClipWriter(disk / "clip.mp4", height=64, width=64, fps=25, audio=wave) as writer:
        for frame in frames:
            writer.write(frame)
    data = (disk / "clip.mp4").read_bytes()
    (disk / "clip.mp4").unlink()
    return data

whole = film()
pages, told = -(-len(whole) // page), []
for room in range(pages + 3):
    stat = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (stat.f_bavail - room) * page)
    try:
        told.append("whole" if film() == whole else "another")
    except ResourceError as error:
        told.append(str(error))
    ballast.unlink()
    assert os.listdir(disk) == [], os.listdir(disk)
print(json.dumps([pages, told]))
"""


def test_a_disk_that_is_full_at_any_point_of_a_film(disk: Path) -> None:
    pages, told = told_on_a_disk(disk, "size=1m", FILM)
    sentence = f"The disk is full: {disk / 'clip.mp4'} was not written. Free some space or choose another disk."
    first = told.index("whole")
    assert told == [sentence] * first + ["whole"] * (len(told) - first)
    assert pages <= first <= pages + 1 and first > 5


@pytest.mark.parametrize(
    "command",
    [
        ["animate", "BUNDLE", "--image", DEMO / "ada.png", "--audio", DEMO / "hello.wav", "--out", "clip.mp4"],
        ["export", "--frames", "5", "--out", "a.echoedge"],
        ["train", "nano", "--clips", "64", "--workdir", "training", "--out", "w.safetensors"],
        [
            "quantize",
            "search",
            "--max-bytes",
            "100000000",
            "--clips",
            "1",
            "--played",
            "2",
            "--work",
            "searching",
            "--out",
            "r.json",
        ],
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_on_a_full_disk_says_so(command: list[object], disk: Path, bundle_path: Path) -> None:
    words = [bundle_path if word == "BUNDLE" else word for word in command]
    script = 'cd "$1"; shift; "$@"; status=$?; find . -type f ! -size 0; exit $status'
    ended = on_a_disk(disk, "size=12k", "sh", "-c", script, "sh", disk, sys.executable, "-m", "echoedge.cli", *words)
    assert ended.returncode == 2, ended
    (sentence,) = [line for line in ended.stderr.splitlines() if ": " in line and "Playing" not in line]
    assert sentence.startswith("resource: ") and ("The disk is full" in sentence or "of disk is needed for" in sentence), sentence
    assert set(ended.stdout.split()) <= {"./searching/.echoedge-work", "./training/.echoedge-work", "./searching/.lock"}


# ---- disks that may not be written -----------------------------------------------------------------------------------------------


def test_a_bundle_on_a_disk_that_may_not_be_written_plays(disk: Path, bundle_path: Path, tmp_path: Path) -> None:
    """Played, verified and timed; a record that is asked for is not kept, and that is said in one line."""
    bundle, film = disk / "a büro.echoedge", tmp_path / "clip é.mp4"
    shutil.copytree(bundle_path, tmp_path / "from")
    echoedge = f'"{sys.executable}" -m echoedge.cli'
    script = f"""
        cp -r "{tmp_path / "from"}" "{bundle}"; mount -o remount,ro "{disk}"; test ! -w "{bundle}"
        {echoedge} animate "{bundle}" --image "{DEMO / "ada.png"}" --audio "{DEMO / "hello.wav"}" --out "{film}" >&2
        {echoedge} verify "{bundle}" --record --json
        {echoedge} bench "{bundle}" --record --runs 1 --json
        ! {echoedge} animate "{bundle}" --image "{DEMO / "ada.png"}" --audio "{DEMO / "hello.wav"}" --out "{disk / "clip.mp4"}"
        find "{disk}" -newer "{film}"
    """
    ended = on_a_disk(disk, "size=64m", "sh", "-ec", script)
    assert ended.returncode == 0, ended.stderr
    verdict, speed = ended.stdout.splitlines()
    assert '"passed": true' in verdict and '"fps"' in speed
    told = [line for line in ended.stderr.splitlines() if "records cannot be written: the figures are not kept." in line]
    assert len(told) == 2
    assert "clip.mp4 cannot be written (Read-only file system" in ended.stderr
    assert film.stat().st_size > 1000
    assert os.listdir(disk) == []  # it was another disk
