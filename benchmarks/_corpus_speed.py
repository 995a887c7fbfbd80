"""How fast cells are loaded, what share of a training step that is, and what a second process brings."""

from __future__ import annotations

import os
import time
from typing import Any

import _corpus_loading
from _corpus_jobs import run
from _corpus_stages import Place
from _measure import spread

BATCHES = [32, 256]
CHUNK, WARM_UP = 256, 5
SMALL: dict[str, Any] = {"preset": "small"}
PUBLISHED: dict[str, Any] = {"preset": "scbert"}
# what is trained, and how many cells a step
SHARES: dict[str, tuple[dict[str, Any], int]] = {
    "published network, full length": (PUBLISHED, 2),
    "published network, expressed genes": (PUBLISHED | {"tokens": "expressed"}, 8),
    "small network, background": (SMALL | {"tokens": "background"}, 32),
    "small network, expressed genes": (SMALL, 32),
}
# processes, threads of each, cells per step of all
WAYS: dict[str, tuple[int, int, int]] = {
    "1 process, 1 thread": (1, 1, 64),
    "1 process, 2 threads": (1, 2, 64),
    "2 processes, 1 thread each": (2, 1, 64),
    "2 processes, 1 thread each, twice the batch": (2, 1, 128),
}
MOST_LOAD = 0.5  # with more than that beside them, two processes say nothing about two cores
PATIENCE = 120  # seconds for the load of the process before to fade


def loading(place: Place) -> dict[str, Any]:
    """All loaders, one after the other, several times."""
    place.corpus(place.scale.loading_cells, "loading", val_fraction=0.0)
    if not (place.folder / _corpus_loading.TOKENS).exists():
        _corpus_loading.prepare(place.folder)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _corpus_loading.LOADERS}
    asked = {"where": place.folder, "sizes": BATCHES, "most_seconds": place.scale.loading_seconds}
    for i in range(place.scale.repeats):
        for number, (name, done) in enumerate(runs.items()):
            stage = f"loading_{number}_{i}"
            done.append(
                place.stage(stage, lambda n=name, s=stage: run(place.folder / "jobs", s, "load", loader=n, **asked))
            )
    return {"runs": runs, "rows": [_summary(name, done, runs["CorpusData"]) for name, done in runs.items()]}


def _summary(name: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    keys = [key for key in runs[0] if key.startswith(("delivered", "tokens"))]
    rates = {key: spread([run[key] for run in runs]) for key in keys}
    ratios = {
        key: spread([b[key] / a[key] for a, b in zip(runs, ours, strict=True)])
        for key in keys
        if key.startswith("tokens")
    }
    least = {"checked": min(run["checked"] for run in runs), "peak_bytes": max(run["peak_bytes"] for run in runs)}
    return {"loader": name, "cells_per_second": rates, "ours_over_it": ratios} | least


def loader_share(place: Place) -> dict[str, Any]:
    """Waiting for cells and making tokens as shares of a training step."""
    corpus, _ = place.corpus(place.scale.loading_cells, "loading", val_fraction=0.0)
    rows = []
    for number, (name, (network, batch)) in enumerate(SHARES.items()):
        for workers in place.scale.workers:
            window = CHUNK * place.scale.n_chunks
            whole = network["preset"] == "small"
            steps = WARM_UP + place.scale.windows * window // batch if whole else 1 + place.scale.full_steps
            asked = {
                "network": network,
                "batch_size": batch,
                "steps": steps,
                "warm_up": WARM_UP if whole else 1,
                "data": {"num_workers": workers, "preload_nchunks": place.scale.n_chunks, "chunk_size": CHUNK},
            }
            stage = f"share_{number}_{workers}"
            found = place.stage(
                stage, lambda s=stage, a=asked: run(place.folder / "jobs", s, "train", corpus=corpus, **a)
            )
            rows.append({"what": name, "workers": workers, "batch_size": batch} | shares(found, window, whole=whole))
    return {"rows": rows, "window": CHUNK * place.scale.n_chunks, "threads": 1}


def shares(found: dict[str, Any], window: int, *, whole: bool) -> dict[str, Any]:
    """Of the seconds per cell. Few steps see no second window: the wait for the first is spread over its cells."""
    n = found["cells"]
    spread_out = 0.0 if whole else found["waited_for_first_window"] / window
    per_cell = found["training_seconds"] / n + spread_out
    waiting, tokens = found["waited"] / n + spread_out, found["expanding"] / n
    return {
        "cells_per_second": 1 / per_cell,
        "waiting": waiting / per_cell,
        "tokens": tokens / per_cell,
        "loader_cells_per_second": 1 / max(waiting + tokens, 1e-9),
        "steps": found["steps"],
        "load_before": found["load_before"],
    }


def scaling(place: Place) -> dict[str, Any]:
    """Cells per second of one and of two processes; alternating, on cores that are idle before."""
    corpus, _ = place.corpus(place.scale.loading_cells, "loading", val_fraction=0.0)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    # of one process two windows, of two processes one: whole windows in both
    n_chunks = max(place.scale.n_chunks // 2, 2)
    for i in range(place.scale.repeats):
        for number, (name, (processes, threads, batch)) in enumerate(WAYS.items()):
            asked = {
                "network": SMALL,
                "batch_size": batch,
                "steps": WARM_UP + place.scale.scaling_steps,
                "warm_up": WARM_UP,
                "data": {"preload_nchunks": n_chunks, "chunk_size": CHUNK},
            } | ({"devices": 2, "strategy": "ddp"} if processes == 2 else {})
            stage = f"scaling_{number}_{i}"
            runs[name].append(place.stage(stage, lambda s=stage, a=asked, t=threads: _alone(place, s, corpus, a, t)))
    return {"rows": [_efficiency(name, done, runs) for name, done in runs.items()], "runs": runs}


def _alone(place: Place, stage: str, corpus: Any, asked: dict[str, Any], threads: int) -> dict[str, Any]:
    """Wait until nothing else runs, or say that something did."""
    patience = PATIENCE if place.scale.repeats > 1 else 0
    start = time.monotonic()
    while os.getloadavg()[0] > MOST_LOAD and time.monotonic() - start < patience:
        time.sleep(5)
    return run(place.folder / "jobs", stage, "train", threads=threads, corpus=corpus, **asked)


def _efficiency(name: str, runs: list[dict[str, Any]], all_runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    cores = WAYS[name][0] * WAYS[name][1]
    one = all_runs["1 process, 1 thread"]
    ratios = [b["cells_per_second"] / (cores * a["cells_per_second"]) for a, b in zip(one, runs, strict=True)]
    found = {"way": name, "cells_per_second": spread([run["cells_per_second"] for run in runs])}
    return found | {"efficiency": spread(ratios), "load_before": spread([run["load_before"] for run in runs])}
