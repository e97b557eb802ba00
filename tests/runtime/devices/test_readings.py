"""runtime/bench/devices/readings.py: what tools print, as recorded, and what is made of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from echoedge.runtime.bench.devices.readings import LINUX, last_exit, pss_bytes, read_android, read_linux

from .lab import BATTERY, EXIT, THERMAL


def test_the_script_reads_what_linux_tells(tmp_path: Path) -> None:
    files = {
        "sys/class/thermal/thermal_zone0/temp": "41500\n", "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone3/temp": "-273000\n", "sys/class/thermal/thermal_zone3/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone10/type": "off\n",  # without a temperature
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000\n",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance\n",  # its clock may not be read
        "sys/class/power_supply/BAT0/type": "Battery\n", "sys/class/power_supply/BAT0/capacity": "77\n",
        "sys/class/power_supply/BAT0/status": "Charging\n", "sys/class/power_supply/AC/type": "Mains\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = LINUX.replace("/sys/", f"{tmp_path}/sys/")
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    found = read_linux(told)
    assert found.temperatures == {"cpu-thermal": 41.5, "cpu-thermal 3": -273.0}
    assert (found.state.governors, found.state.clocks_mhz) == ({"policy0": "ondemand", "policy4": "performance"}, {"policy0": 1500})
    assert (found.state.battery_percent, found.state.battery_celsius, found.state.charging) == (77, None, True)
    assert (found.warmth.status, found.warmth.celsius) == (None, 41.5)
    assert found.load is not None


def test_a_system_that_tells_nothing_tells_nothing() -> None:
    found = read_linux("load \n")
    assert (found.temperatures, found.state.governors, found.load, found.warmth.celsius) == (None, None, None, None)
    found = read_android("load 0.5 0.4\n== thermalservice\n== battery\n")
    assert (found.state.thermal_status, found.state.battery_percent, found.state.charging, found.load) == (None, None, None, 0.5)


def test_android_tells_its_warmth() -> None:
    text = f"load 1\n== thermalservice\n{THERMAL.format(status=2, skin=37.5)}== battery\n{BATTERY.format(status=2, level=40)}"
    found = read_android(text)
    assert (found.state.thermal_status, found.warmth.celsius) == ("moderate", 37.5)  # the skin's, not the processor's 61.5
    assert found.temperatures == {"SKIN": 37.5, "CPU0": 61.5}  # neither the cached 99 nor the sensor that is not there
    assert (found.state.battery_percent, found.state.battery_celsius, found.state.charging) == (40, 30.5, True)
    without = read_android(text.replace("mType=3, mName=SKIN", "mType=9, mName=NPU"))
    assert without.warmth.celsius == 30.5  # then the battery's


def test_memory_as_android_counts_it() -> None:
    assert pss_bytes("           TOTAL PSS:   123456            TOTAL RSS:   222222      TOTAL SWAP PSS:        7") == 123456 * 1024
    assert pss_bytes("               TOTAL:    98765       TOTAL SWAP PSS:        0") == 98765 * 1024
    assert pss_bytes("No process found for: ai.echoedge.demo") is None


def test_how_an_app_ended_by_its_process() -> None:
    text = EXIT.format(reason="3 (LOW_MEMORY)", about="low memory").replace("PID", "42")
    text += EXIT.format(reason="5 (APP CRASH(NATIVE))", about="crash").replace("PID", "41")
    assert last_exit(text, "42") == (3, "LOW_MEMORY", "low memory")
    assert last_exit(text, "41") == (5, "APP CRASH(NATIVE)", "crash")
    assert last_exit(text, "4") is None
    assert last_exit("", "42") is None
