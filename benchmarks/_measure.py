"""What the benchmarks share: seconds and peak memory of one call, a process of its own for it, and
where it ran.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
Run = dict[str, float]  # "seconds" and "peak_bytes", above what was held before
PATIENCE = 1.0  # seconds; what takes less is called again, and the median counts


def measured(work: Callable[[], object], patience: float = PATIENCE) -> Run:
    """Peak memory of the first call above what the process held before it, and seconds."""
    before = start_of_peak()
    first = _seconds(work)
    peak = held("VmHWM") - before
    return {"seconds": _settled(work, first, patience), "peak_bytes": max(peak, 0)}


def measured_on_gpu(work: Callable[[], object], patience: float = PATIENCE) -> Run:
    """The same with the memory that PyTorch took on the GPU."""
    import torch

    def finished() -> None:
        work()
        torch.cuda.synchronize()

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    first = _seconds(finished)
    peak = torch.cuda.max_memory_allocated() - before
    return {"seconds": _settled(finished, first, patience), "peak_bytes": peak}


def _settled(work: Callable[[], object], first: float, patience: float) -> float:
    """The first call's seconds, or where they are few the median of 3 to 20 further calls."""
    if first >= patience:
        return first
    return float(np.median([_seconds(work) for _ in range(int(np.clip(patience / first, 3, 20)))]))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def start_of_peak() -> int:
    """Forget the peak so far; memory held now. (`ru_maxrss` would do neither: it even survives from
    the parent.)
    """
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")
    return held("VmRSS")


def _give_back() -> None:
    """Freed memory that the allocator keeps for later would hide as much of the next peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)


def held(field: str) -> int:
    """Bytes of this process, of `/proc/self/status`: `VmRSS` now, `VmHWM` at the peak."""
    line = next(
        li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith(field)
    )
    return 1024 * int(line.split()[1])


def run_of(script: str) -> list[str]:
    """The command that runs a file of this folder as the module that it is."""
    module = Path(script).resolve().relative_to(ROOT).with_suffix("").parts
    return [sys.executable, "-m", ".".join(module)]


def found_from_anywhere(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which `benchmarks` is found whatever the working folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **(environment or {}), "PYTHONPATH": path}


def apart(
    script: str, arguments: Sequence[object], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a script in a process of its own; what it prints last is JSON."""
    command = [*run_of(script), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=found_from_anywhere(environment)
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
    }


def busy(seconds: float) -> float:
    """Share of all cores that was in use for some seconds (Linux)."""
    before = _ticks()
    time.sleep(seconds)
    idle, total = (b - a for a, b in zip(before, _ticks(), strict=True))
    return 1 - idle / max(total, 1)


def _ticks() -> tuple[int, int]:
    """Of all cores since the start: idle (or waiting for a disk), and altogether."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": platform.system(),
    }


def versions(*packages: str) -> dict[str, str]:
    return {p: version(p) for p in packages} | {"python": platform.python_version()}
