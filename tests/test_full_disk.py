"""Disks that are full, limits on files, disks that may not be written: one sentence, and nothing half under a final name."""

from __future__ import annotations

from pathlib import Path

import pytest

from echoedge.core.weights.nano import assets

from .full_disk import told_on_a_disk

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


VERBS = """
import json, os, sys
from pathlib import Path
import echoedge
from echoedge import api
from echoedge.core.errors import EchoEdgeError

os.chdir(sys.argv[1])
image, audio, bundle = sys.argv[2:]
verbs = {
    "animate": lambda: api.animate(bundle, image=image, audio=audio, out="clip.mp4"),
    "export": lambda: api.export("a.echoedge", frames=5),
    "train": lambda: api.train("w.safetensors", workdir="training", clips=64),
    "search": lambda: api.search_recipe("r.json", max_bytes=100_000_000, clips=1, work="searching"),
}
told = {}
for name, verb in verbs.items():
    try:
        verb()
        told[name] = ["", "nothing was raised", []]
    except EchoEdgeError as error:
        told[name] = [type(error).__name__, str(error), sorted(os.listdir())]
    for path in sorted(Path().rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
print(json.dumps(told))
"""


def test_a_command_on_a_full_disk_says_so(disk: Path, bundle_path: Path) -> None:
    told = told_on_a_disk(disk, "size=12k", VERBS, DEMO / "ada.png", DEMO / "hello.wav", bundle_path)
    assert list(told) == ["animate", "export", "train", "search"]
    for verb, (kind, sentence, left) in told.items():
        assert kind == "ResourceError", (verb, sentence)
        assert any(part in sentence for part in SAYS["disk"]), (verb, sentence)
        assert left == (["searching"] if verb == "search" else []), (verb, left)


# ---- disks that may not be written -----------------------------------------------------------------------------------------------


READ_ONLY = """
import json, os, shutil, subprocess, sys
from pathlib import Path
from echoedge import api
from echoedge.core.errors import OutputError

disk = Path(sys.argv[1])
image, audio, source, film = sys.argv[2:]
bundle = disk / "a b\u00fcro.echoedge"
shutil.copytree(source, bundle)
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
told = []
api.animate(bundle, image=image, audio=audio, out=film)
passed = api.verify(bundle, record=True, warn=told.append).passed
(speed,) = api.bench(bundle, record=True, runs=1, warn=told.append)
try:
    api.animate(bundle, image=image, audio=audio, out=disk / "clip.mp4")
except OutputError as error:
    told.append(str(error))
print(json.dumps([passed, speed.fps, told, sorted(os.listdir(disk))]))
"""


def test_a_bundle_on_a_disk_that_may_not_be_written_plays(disk: Path, bundle_path: Path, tmp_path: Path) -> None:
    """Played, verified and timed; a record that is asked for is not kept, and that is said in one line."""
    film = tmp_path / "clip é.mp4"
    given = (DEMO / "ada.png", DEMO / "hello.wav", bundle_path, film)
    passed, fps, told, left = told_on_a_disk(disk, "size=64m", READ_ONLY, *given)
    assert passed and fps > 0 and film.stat().st_size > 1000
    records = disk / "a büro.echoedge" / "records"
    line = f"{records} cannot be written: the figures are not kept. Copy the bundle to where you may write, to keep them."
    assert told[:2] == [line, line]
    assert "clip.mp4 cannot be written (Read-only file system" in told[2] and len(told) == 3
    assert left == [records.parent.name]
