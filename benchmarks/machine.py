"""The machine a table was measured on."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.protocol import ROOT

# Of the many flags of a CPU, those that decide how fast it multiplies.
_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)


def describe() -> dict[str, Any]:
    """Return what the machine is and how busy it was when the run began."""
    info = _read("/proc/cpuinfo")
    flags = (_field(info, "flags") or _field(info, "Features")).split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "cpu": _field(info, "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [f for f in _FLAGS if f in flags],
        "memory_bytes": 1024 * _memory_kib("MemTotal"),
        "gpus": _output(
            "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        ).splitlines(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def free_bytes() -> int:
    """Return how much memory new processes may take."""
    return 1024 * _memory_kib("MemAvailable")


def _memory_kib(name: str) -> int:
    return int(_field(_read("/proc/meminfo"), name).split()[0])


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _read(path: str) -> str:
    return Path(path).read_text()


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
