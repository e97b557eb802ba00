"""Devices that are not there: adb, xcrun devicectl, ssh and scp as programs that behave as recorded, on a folder for a file system.

python phone.py TOOL WORDS…, with FAKE_DEVICE naming the folder: state.json says what device it is and what goes wrong, root/ is its
file system. What a script on a device says is run by this machine's sh, its absolute paths led into root/, and am, pm and
dumpsys are this program again. Standard library alone: it starts in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_DEVICE"])
ROOT, BIN, GONE = HOME / "root", HOME / "device-bin", HOME / "unplugged"
STATE = json.loads((HOME / "state.json").read_text())
BENCH = {"android": ROOT / "sdcard/Android/data/ai.echoedge.demo/files/bench", "ios": ROOT / "Documents/echoedge-bench"}
PID, SYSTEMS = HOME / "app.pid", HOME / "systems.json"  # folders that belong to the system: an app may not remove what lies there


def fail(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status


def is_(fault: str) -> bool:
    return STATE.get("fault") == fault


# ---- what runs on a device -------------------------------------------------------------------------------------------------------


def on_device(script: str, cwd: Path, lost: int) -> int:
    """A script there. Its input is ours, until the cable is pulled: then it hears the end, and this tool ends with `lost`."""
    for path in ("/sdcard/", "/data/local/tmp/", "/sys/class/", "/sys/devices/"):
        script = script.replace(path, f"{ROOT}{path}")
    cwd.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(cwd)}
    child = subprocess.Popen(
        ["sh", "-c", script], cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    ended = threading.Event()

    def give() -> None:
        for data in iter(lambda: os.read(0, 65536), b""):
            try:
                os.write(child.stdin.fileno(), data)
            except OSError:
                return
        ended.set()

    def take(source: int, target: int) -> None:
        for data in iter(lambda: os.read(source, 65536), b""):
            os.write(target, data)

    threads = [threading.Thread(target=take, args=(s.fileno(), t), daemon=True) for s, t in ((child.stdout, 1), (child.stderr, 2))]
    threading.Thread(target=give, daemon=True).start()
    for thread in threads:
        thread.start()
    closed = False
    while child.poll() is None:
        if GONE.exists():
            child.stdin.close()
            return lost
        if ended.is_set() and not closed:
            child.stdin.close()
            closed = True
        time.sleep(0.005)
    for thread in threads:
        thread.join(5)
    return child.returncode


def android(name: str, words: list[str]) -> int:
    """Programs of a phone."""
    if name == "pm":
        print(f"package:/data/app/{words[1]}/base.apk" if STATE.get("installed", True) else "", end="\n")
    elif name == "am" and words[0] == "force-stop":
        kill_app()
    elif name == "am":
        extras = {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == "--es"}
        kill_app()
        if is_("app of another name"):
            print("Error type 3\nError: Activity class {ai.echoedge.demo/.BenchActivity} does not exist.")
            return 0
        log = (HOME / "app.log").open("a")
        command = [sys.executable, "-S", __file__, "app", "android", extras["bench"], extras["job"]]
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        PID.write_text(str(started.pid))
        print("Starting: Intent { cmp=ai.echoedge.demo/.BenchActivity (has extras) }\nStatus: ok\nComplete")
    elif name == "dumpsys":
        print(dumpsys(words))
    return 0


def dumpsys(words: list[str]) -> str:
    if words[:2] == ["activity", "exit-info"]:
        return STATE.get("exit-info", "").replace("PID", PID.read_text() if PID.exists() else "0")
    told = STATE.get(f"dumpsys {words[0]}", "")
    if isinstance(told, list):  # one after the other, the last one again and again
        counter = HOME / f"{words[0]}.count"
        seen = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(seen + 1))
        told = told[min(seen, len(told) - 1)]
    return told


def alive() -> bool:
    if not PID.exists():
        return False
    try:
        state = Path(f"/proc/{PID.read_text()}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill_app(number: int = signal.SIGKILL) -> None:
    if alive():
        os.kill(int(PID.read_text()), number)


# ---- the app ---------------------------------------------------------------------------------------------------------------------


class App:
    """What docs/DEVICE_BENCH.md asks of an app, and what goes wrong with one."""

    def __init__(self, system: str, word: str) -> None:
        self.system, self.word, self.bench = system, word, BENCH[system]
        self.version = 2 if is_("another app") else 1

    def tell(self, state: str, **more: object) -> None:
        fields = {"format": "echoedge.status/1", "job": self.word, "state": state, "contract": self.version, "app": "demo 1.2.3"}
        text = json.dumps(fields | {"thermal_status": STATE.get("thermal", "none"), "pss_bytes": 300_000_000} | more)
        if self.system == "ios":
            print(f"echoedge-status {text}", flush=True)
        else:
            (self.bench / "status.partial").write_text(text)
            (self.bench / "status.partial").replace(self.bench / "status.json")

    def prepare(self, folders: list[str]) -> None:
        self.bench.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            (self.bench / folder).mkdir(parents=True, exist_ok=True)
        if not is_("no answer"):
            self.tell("ready", free_bytes=1000 if is_("little room") else 10**11)
        elif self.system == "ios":
            time.sleep(60)

    def clean(self, keep: bool) -> None:
        theirs = json.loads(SYSTEMS.read_text()) if SYSTEMS.exists() else []
        assert not theirs, f"an app may not remove what lies in {theirs}"
        listed = json.loads((self.bench / "pushed.json").read_text()) if keep else {}
        for path in sorted(self.bench.rglob("*"), reverse=True):
            inside = path.relative_to(self.bench).as_posix()
            if path.is_file() and inside.removeprefix("bundle/") not in listed and not (keep and inside == "pushed.json"):
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if not keep:
            shutil.rmtree(self.bench, ignore_errors=True)
        self.tell("cleaned") if self.system == "ios" else None

    def run(self) -> None:
        job = json.loads((self.bench / "job.json").read_text())
        assert job["job"] == self.word
        if is_("silent"):
            self.tell("loading")
            time.sleep(60)
        if self.system == "ios" and job["cool"] is not None:
            self.cool(job["cool"])
        self.tell("loading")
        self.require_whole(job)
        if is_("failed"):
            self.tell("failed", fault="job", message="There is no engine for target coreml here.")
            return
        total = job["warm_up"] + job["runs"] + job["reload"]
        for done in range(1, total + 1):
            time.sleep(STATE.get("seconds", 0.03))
            self.tell("playing", done=done, total=total)
            if done == 2:
                self.break_down()
        self.write(job)
        self.tell("done")

    def cool(self, wish: dict) -> None:
        if STATE.get("thermal", "none") == wish["status"]:
            return
        until = time.time() + wish["timeout_s"]
        while time.time() < until:
            self.tell("cooling")
            time.sleep(0.05)
        self.tell("failed", fault="hot", message="too warm")
        sys.exit(0)

    def require_whole(self, job: dict) -> None:
        """Every file of the bundle as its manifest has it, and the material of the clip's size."""
        bundle = self.bench / job["bundle"]
        manifest = json.loads((bundle / "manifest.json").read_text())
        files = dict(manifest["files"])
        for program in manifest["programs"].values():
            files[program["artifact"]["path"]] = program["artifact"]
        for name, entry in files.items():
            found = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
            assert found == entry["sha256"], f"{name} is not what the manifest lists"
        height, width, frames = map(int, job["clip"].split("x"))
        assert (self.bench / "portrait.f32").stat().st_size == 4 * 3 * height * width
        assert (self.bench / "speech.f32").stat().st_size == 4 * frames * 16000 // 25

    def break_down(self) -> None:
        if is_("killed for memory"):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_("a crash"):
            os.kill(os.getpid(), signal.SIGABRT)
        if is_("stopped by hand"):
            os.kill(os.getpid(), signal.SIGTERM)
        if is_("unplugged while it plays"):
            GONE.touch()
            time.sleep(60)

    def write(self, job: dict) -> None:
        record = json.loads(json.dumps(STATE["record"]))
        record["runs"] = job["runs"] + (1 if is_("a wrong record") else 0)
        ends = None if job["sustained_s"] is None else STATE["ends"]
        result = {
            "format": "echoedge.result/1", "job": self.word, "app": "demo 1.2.3", "record": record, "peak_pss_bytes": 310_000_000,
            "cooled_s": 0.0, "ends_s": ends, "before": STATE.get("before"), "after": STATE.get("after"),
        }  # fmt: skip
        (self.bench / "result.json").write_text(json.dumps(result))


def app(system: str, action: str, word: str, *more: str) -> int:
    this = App(system, word)
    if action == "prepare":
        this.prepare(more[more.index("--folders") + 1].split(",") if "--folders" in more else [])
    elif action == "clean":
        this.clean("--keep" in more)
    else:
        this.run()
    return 0


# ---- adb -------------------------------------------------------------------------------------------------------------------------


def adb(words: list[str]) -> int:
    if words[0] == "devices":
        rows = [] if GONE.exists() else STATE["devices"]
        print("List of devices attached")
        for serial, state, model in rows:
            print(f"{serial:22} {state} usb:1-1 product:p model:{model} device:d transport_id:1")
        print()
        return 0
    assert words[0] == "-s"
    serial, verb, rest = words[1], words[2], words[3:]
    row = next((row for row in STATE["devices"] if row[0] == serial), None)
    if row is None or GONE.exists():
        return fail(f"error: device '{serial}' not found")
    if row[1] != "device":
        return fail("error: device offline" if row[1] == "offline" else "error: device unauthorized.")
    if verb == "shell":
        assert rest[0] == "-T"
        if is_("offline at the first word"):
            return fail("error: device offline")
        return on_device(rest[1], ROOT, 1)
    assert verb == "push"
    source, target = Path(rest[0]), Path(f"{ROOT}{rest[1]}")
    return taken(source, target, f"adb: error: failed to copy '{source}' to '{rest[1]}': ")


def taken(source: Path, target: Path, complaint: str) -> int:
    """One file that is sent; half of it where something goes wrong."""
    (HOME / "sent.txt").open("a").write(f"{target.name}\n")
    if target.name == STATE.get("at", "plan.json"):
        data = source.read_bytes()
        for fault, words in (("storage", "remote write failed: No space left on device"), ("unplugged while it is sent", "closed")):
            if is_(fault):
                target.write_bytes(data[: len(data) // 2])
                if fault != "storage":
                    GONE.touch()
                return fail(complaint + words)
        if is_("odd words"):
            return fail(f"{complaint}protocol fault")
        if is_("refused"):
            return fail(f"{complaint}remote couldn't create file: Permission denied")
    if not target.parent.is_dir():
        return fail(f"{complaint}remote couldn't create file: No such file or directory")
    shutil.copyfile(source, target)
    return 0


# ---- xcrun devicectl -------------------------------------------------------------------------------------------------------------


def xcrun(words: list[str]) -> int:
    assert words[0] == "devicectl"
    told = Path(words[words.index("--json-output") + 1]) if "--json-output" in words else None

    def option(name: str) -> str:
        return words[words.index(name) + 1]

    def answer(result: dict) -> int:
        told.write_text(json.dumps({"info": {"outcome": "success", "jsonVersion": 2}, "result": result}))
        return 0

    def refuse(code: int, text: str) -> int:
        described = {"NSLocalizedDescription": {"string": text}}
        error = {"code": code, "domain": "com.apple.dt.CoreDeviceError", "userInfo": described}
        if told:
            told.write_text(json.dumps({"error": error, "info": {"outcome": "failed"}}))
        return fail(f"ERROR: {text} (com.apple.dt.CoreDeviceError error {code})")

    if words[1:3] == ["list", "devices"]:
        return answer({"devices": [] if GONE.exists() else STATE["phones"]})
    if GONE.exists():
        return refuse(4000, "The device disconnected immediately after connecting.")
    if is_("developer mode"):
        return refuse(12040, "The developer disk image could not be mounted on this device.")
    if words[1:4] == ["device", "info", "apps"]:
        apps = [{"bundleIdentifier": option("--bundle-id"), "version": "1.2.3"}] if STATE.get("installed", True) else []
        return answer({"apps": apps})
    if words[1:3] == ["device", "copy"]:
        assert option("--domain-type") == "appDataContainer"
        source, target = option("--source"), option("--destination")
        if words[3] == "from":
            if not (ROOT / source).is_file():
                return refuse(7000, "Failed to retrieve the file node")
            shutil.copyfile(ROOT / source, target)
            return 0
        place = ROOT / target
        if not place.parent.is_dir():  # devicectl makes it, and it is the system's
            place.parent.mkdir(parents=True)
            SYSTEMS.write_text(json.dumps([str(place.parent)]))
        if is_("storage") and place.name == "plan.json":
            place.write_bytes(b"half")
            return refuse(7000, "The file could not be transferred: No space left on device")
        if is_("unplugged while it is sent") and place.name == "plan.json":
            GONE.touch()
            return refuse(4000, "The device disconnected immediately after connecting.")
        (HOME / "sent.txt").open("a").write(f"{place.name}\n")
        shutil.copyfile(source, place)
        return 0
    assert words[1:4] == ["device", "process", "launch"] and {"--console", "--terminate-existing"} < set(words)
    given = words[words.index("--") + 1 :]
    if is_("locked"):
        return fail(
            "ERROR: The application failed to launch. (com.apple.dt.CoreDeviceError error 10002 (0x2712))\n"
            'reason: Locked ("Unable to launch ai.echoedge.demo because the device was not, or could not be, unlocked").'
        )
    print("Launched application with ai.echoedge.demo bundle identifier.\nWaiting for the application to terminate...", flush=True)
    command = [
        sys.executable,
        "-S",
        __file__,
        "app",
        "ios",
        given[given.index("--bench") + 1],
        given[given.index("--job") + 1],
        *given,
    ]
    child = subprocess.Popen(command, start_new_session=True)
    PID.write_text(str(child.pid))
    signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    while child.poll() is None:
        if GONE.exists():
            child.kill()  # the console is the app's life
            return refuse(4000, "The device disconnected immediately after connecting.")
        time.sleep(0.005)
    if child.returncode < 0:
        print(f"App terminated due to signal {-child.returncode}.")
    return 0 if child.returncode == 0 else 1


# ---- ssh and scp -----------------------------------------------------------------------------------------------------------------

SSH_FAULTS = {
    "unreachable": "ssh: connect to host board port 22: No route to host",
    "no such name": "ssh: Could not resolve hostname board: Name or service not known",
    "host key": "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
    "login": "pi@board: Permission denied (publickey,password).",
}


def ssh(words: list[str]) -> int:
    assert "BatchMode=yes" in words
    for fault, text in SSH_FAULTS.items():
        if is_(fault):
            return fail(text, 255)
    if GONE.exists():
        return fail("ssh: connect to host board port 22: Connection timed out", 255)
    status = on_device(words[-1], ROOT / "home/pi", 255)
    return fail("client_loop: send disconnect: Broken pipe", 255) if GONE.exists() else status


def scp(words: list[str]) -> int:
    if GONE.exists():
        return fail("ssh: connect to host board port 22: Connection timed out\nscp: Connection closed", 255)
    host, _, target = words[-1].partition(":")
    assert host == STATE["host"], host
    return taken(Path(words[-2]), ROOT / "home/pi" / target, "scp: write remote: ")


def runner(words: list[str]) -> int:
    """A board's `echoedge bench-job FOLDER [--hello WORD]`."""
    folder = Path(words[1])
    BENCH["ssh"] = folder
    if is_("an old runner"):
        return fail("Error: No such command 'bench-job'.", 2)
    word = words[3] if "--hello" in words else json.loads((folder / "job.json").read_text())["job"]
    this = App("ios", word)  # it prints, as one on an iPhone does
    this.bench = folder.resolve()
    STATE["record"]["machine"]["place"] = "host"
    if "--hello" in words:
        this.prepare([])
    else:
        this.run()
    return 0


if __name__ == "__main__":
    tool, *arguments = sys.argv[1:]
    if tool == "app":
        sys.exit(app(*arguments))
    if tool in ("am", "pm", "dumpsys"):
        sys.exit(android(tool, arguments))
    with (HOME / "calls.txt").open("a") as calls:
        calls.write(json.dumps([tool, *arguments]) + "\n")
    sys.exit({"adb": adb, "xcrun": xcrun, "ssh": ssh, "scp": scp, "echoedge": runner}[tool](arguments))
