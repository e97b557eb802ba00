"""Where a benchmark runs: processor, system, temperatures, load. What the platform does not tell is None."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from ...core.bundle.bench_record import Machine
from ...core.memory import usable_cores

THERMAL = Path("/sys/class/thermal")  # Linux: a folder for each sensor


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "a processor that is not named"


def device_name() -> str:
    """The processor's name and the number of cores this process may use."""
    return f"{processor_name()}, {usable_cores()} cores"


def this_machine(device: str = "cpu") -> Machine:
    """The machine that this process runs on; `device`: what computes, cpu, cuda or cuda:N as PyTorch names it."""
    name, kind, cores, memory = processor_name(), "cpu", usable_cores(), psutil.virtual_memory().total
    if device.startswith("cuda"):
        import torch

        found = torch.cuda.get_device_properties(device)
        name, kind, cores, memory = found.name, "cuda", found.multi_processor_count, found.total_memory
    return Machine(
        place="host", kind=kind, name=name, cores=cores, memory_bytes=memory, os=_system(),  # type: ignore[arg-type]
        os_build=platform.version() or platform.release() or "not told",
    )  # fmt: skip


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()}".strip() or "not told"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def thermal(folder: Path = THERMAL) -> dict[str, float] | None:
    """Degrees Celsius by sensor; several of one kind are told apart by their number."""
    found: dict[str, float] = {}
    for zone in sorted(folder.glob("thermal_zone*"), key=lambda path: (len(path.name), path.name)):
        try:
            kind, degrees = (zone / "type").read_text().strip(), int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue  # a sensor that is switched off
        found[f"{kind} {zone.name.removeprefix('thermal_zone')}" if kind in found else kind] = degrees
    return found or None


def load_average() -> float | None:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
