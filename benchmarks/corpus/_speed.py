"""How fast cells are loaded, what share of a training step that is, and what a second process
brings.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks._measure import busy, spread
from benchmarks.corpus import _loading
from benchmarks.corpus._jobs import run
from benchmarks.corpus._stages import Place

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


class Way(NamedTuple):
    """How cores are used."""

    processes: int
    threads: int  # of each process
    batch: int  # cells per step, of all processes
    apart: bool = (
        False  # trainings of their own, which share nothing: more than that two cores cannot give
    )


ONE = "1 process, 1 thread"
WAYS: dict[str, Way] = {
    ONE: Way(1, 1, 64),
    "1 process, 2 threads": Way(1, 2, 64),
    "2 trainings apart": Way(2, 1, 64, apart=True),
    "2 processes": Way(2, 1, 64),
    "2 trainings apart, twice the batch": Way(2, 1, 128, apart=True),
    "2 processes, twice the batch": Way(2, 1, 128),
}
# share of all cores that others may use before; with more, two processes say nothing about two
# cores
MOST_BUSY = 0.1
LOOK = 3.0  # seconds
PATIENCE = 120  # seconds for them to end


def loading(place: Place) -> dict[str, Any]:
    """All loaders, one after the other, several times."""
    place.corpus(place.scale.loading_cells, "loading", val_fraction=0.0)
    if not (place.folder / _loading.TOKENS).exists():
        _loading.prepare(place.folder)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _loading.LOADERS}
    asked = {"where": place.folder, "sizes": BATCHES, "most_seconds": place.scale.loading_seconds}
    for i in range(place.scale.repeats):
        for number, (name, done) in enumerate(runs.items()):
            stage = f"loading_{number}_{i}"
            done.append(
                place.stage(
                    stage,
                    lambda n=name, s=stage: run(
                        place.folder / "jobs", s, "load", loader=n, **asked
                    ),
                )
            )
    return {
        "runs": runs,
        "rows": [_summary(name, done, runs["CorpusData"]) for name, done in runs.items()],
    }


def _summary(name: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    keys = [key for key in runs[0] if key.startswith(("delivered", "tokens"))]
    rates = {key: spread([run[key] for run in runs]) for key in keys}
    ratios = {
        key: spread([b[key] / a[key] for a, b in zip(runs, ours, strict=True)])
        for key in keys
        if key.startswith("tokens")
    }
    least = {
        "checked": min(run["checked"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
    }
    return {"loader": name, "cells_per_second": rates, "ours_over_it": ratios} | least


def loader_share(place: Place) -> dict[str, Any]:
    """Waiting for cells and making tokens as shares of a training step."""
    corpus, _ = place.corpus(place.scale.loading_cells, "loading", val_fraction=0.0)
    rows = []
    for number, (name, (network, batch)) in enumerate(SHARES.items()):
        for workers in place.scale.workers:
            window = CHUNK * place.scale.n_chunks
            whole = network["preset"] == "small"
            steps = (
                WARM_UP + place.scale.windows * window // batch
                if whole
                else 1 + place.scale.full_steps
            )
            asked = {
                "network": network,
                "batch_size": batch,
                "steps": steps,
                "warm_up": WARM_UP if whole else 1,
                "data": {
                    "num_workers": workers,
                    "preload_nchunks": place.scale.n_chunks,
                    "chunk_size": CHUNK,
                },
            }
            stage = f"share_{number}_{workers}"
            found = place.stage(
                stage,
                lambda s=stage, a=asked: run(place.folder / "jobs", s, "train", corpus=corpus, **a),
            )
            rows.append(
                {"what": name, "workers": workers, "batch_size": batch}
                | shares(found, window, whole=whole)
            )
    return {"rows": rows, "window": CHUNK * place.scale.n_chunks, "threads": 1}


def shares(found: dict[str, Any], window: int, *, whole: bool) -> dict[str, Any]:
    """Of the seconds per cell. Few steps see no second window: the wait for the first is spread
    over its cells.
    """
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
    # of one process whole windows, of two half as many
    n_chunks = max(place.scale.n_chunks // 2, 2)
    for i in range(place.scale.repeats):
        for number, (name, way) in enumerate(WAYS.items()):
            asked = {
                "corpus": corpus,
                "network": SMALL,
                "batch_size": way.batch // way.processes if way.apart else way.batch,
                "steps": WARM_UP + place.scale.scaling_steps,
                "warm_up": WARM_UP,
                "data": {"preload_nchunks": n_chunks, "chunk_size": CHUNK},
            } | ({"devices": 2, "strategy": "ddp"} if way.processes == 2 and not way.apart else {})
            stage = f"scaling_{number}_{i}"
            runs[name].append(
                place.stage(stage, lambda s=stage, a=asked, w=way: _alone(place, s, a, w))
            )
    return {"rows": [_efficiency(name, done, runs) for name, done in runs.items()], "runs": runs}


def _alone(place: Place, stage: str, asked: dict[str, Any], way: Way) -> dict[str, Any]:
    """Wait until nothing else runs, or say that something did."""
    start, before = time.monotonic(), busy(LOOK)
    while before > MOST_BUSY and place.scale.repeats > 1 and time.monotonic() - start < PATIENCE:
        before = busy(LOOK)
    names = [f"{stage}_{i}" for i in range(way.processes)] if way.apart else [stage]

    def training(name: str) -> dict[str, Any]:
        return run(place.folder / "jobs", name, "train", threads=way.threads, **asked)

    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(training, names))
    rate = sum(one["cells_per_second"] for one in found)
    return {"cells_per_second": rate, "busy_before": before, "trainings": found}


def _efficiency(
    name: str, runs: list[dict[str, Any]], all_runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Against one core times their number; and two processes against two trainings apart."""
    way = WAYS[name]
    found = {"way": name, "cells_per_second": spread([run["cells_per_second"] for run in runs])}
    found["efficiency"] = _ratios(runs, all_runs[ONE], way.processes * way.threads)
    same = [other for other, of in WAYS.items() if of == way._replace(apart=True) and not way.apart]
    found["of_apart"] = _ratios(runs, all_runs[same[0]], 1) if same else None
    return found | {"busy_before": spread([run["busy_before"] for run in runs])}


def _ratios(
    runs: list[dict[str, Any]], others: list[dict[str, Any]], times: int
) -> dict[str, float]:
    pairs = zip(runs, others, strict=True)
    return spread([a["cells_per_second"] / (times * b["cells_per_second"]) for a, b in pairs])
