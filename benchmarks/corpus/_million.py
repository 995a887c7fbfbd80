"""The whole of it: many cells built into a corpus, a training on two processes killed and resumed,
and all cells embedded.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.corpus._jobs import run, run_and_kill
from benchmarks.corpus._memory import predicted
from benchmarks.corpus._stages import Place, size

BATCH, MOST_BYTES = 64, 4e9


def million(place: Place) -> dict[str, Any]:
    """Every stage is skipped where its result is there."""
    n = place.scale.million
    made = simulated(place)
    corpus, built = place.corpus(n)
    straight = place.stage("million_straight", lambda: _train(place, corpus, "straight"))
    killed = place.stage("million_killed", lambda: _train(place, corpus, "resumed", kill=True))
    resumed = place.stage("million_resumed", lambda: _train(place, corpus, "resumed"))
    stages = {
        "simulate": made,
        "build": built,
        "train": straight,
        "killed": killed,
        "resumed": resumed,
    }
    stages["predict"] = predicted(place, n, corpus, place.folder / "model_resumed")
    peaks = {name: _peaks(found) for name, found in stages.items() if name != "simulate"}
    same = straight["weights_sha256"] == resumed["weights_sha256"]
    if not same:
        raise SystemExit(
            "The resumed training ended with other weights than the one that was not interrupted"
        )
    most = max(max(found) for found in peaks.values())
    return {
        "cells": n,
        "steps": place.scale.steps,
        "batch_size": BATCH,
        "killed_after_step": place.scale.checkpoint_steps,
        "same_weights": same,
        "peak_bytes": peaks,
        "most_bytes": most,
        "met": most < MOST_BYTES,
        "stages": stages,
    }


def simulated(place: Place) -> dict[str, Any]:
    """The files of cells."""
    n = place.scale.million
    return place.stage(f"simulate_{n}", lambda: _simulate(place, n))


def _simulate(place: Place, n: int) -> dict[str, Any]:
    start = time.perf_counter()
    files = place.cells(n)
    seconds, held = time.perf_counter() - start, sum(path.stat().st_size for path in files)
    return {"cells": n, "seconds": seconds, "files": len(files), "bytes": held}


def _train(place: Place, corpus: Path, name: str, *, kill: bool = False) -> dict[str, Any]:
    checkpoints = place.folder / f"checkpoints_{name}"
    asked = {
        "corpus": corpus,
        "network": {"preset": "small"},
        "data": {"chunk_size": 256, "preload_nchunks": place.scale.n_chunks},
        "steps": place.scale.steps,
        "batch_size": BATCH,
        "checkpoint_dir": checkpoints,
        "checkpoint_steps": place.scale.checkpoint_steps,
        "save": place.folder / f"model_{name}",
        "devices": 2,
        "strategy": "ddp",
    }
    jobs = place.folder / "jobs"
    if kill:
        return run_and_kill(
            jobs, f"{name}_killed", "train", lambda: any(checkpoints.glob("step_*.ckpt")), **asked
        )
    found = run(jobs, name, "train", **asked)
    return found | {"bytes_of_checkpoints": size(checkpoints)}


def _peaks(found: dict[str, Any]) -> list[int]:
    """Peak memory of every process of a stage."""
    if "processes" in found:
        return [one["peak_bytes"] for one in found["processes"]]
    return found["peak_bytes"]
