"""Peak memory of building, training and predicting, each in a fresh process, at several numbers of
cells.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.corpus._jobs import run
from benchmarks.corpus._stages import Place

STEPS, BATCH, SHARDS = 50, 64, 2


def memory(place: Place) -> dict[str, Any]:
    """For each number of cells; the slope is that between the two largest."""
    rows = [_row(place, n) for n in place.scale.memory_cells]
    slopes = {what: _slope(rows, what) for what in rows[0] if what not in ("cells", "seconds")}
    return {
        "rows": rows,
        "bytes_per_cell": slopes,
        "steps": STEPS,
        "batch_size": BATCH,
        "shards": SHARDS,
    }


def predicted(place: Place, n: int, corpus: Path, model: Path) -> dict[str, Any]:
    """Embed all cells of a corpus, by some processes at once."""
    out = place.folder / f"predicted_{n}.zarr"

    def shard(i: int) -> dict[str, Any]:
        request = {"corpus": corpus, "model": model, "out": out, "shard": [i, SHARDS]}
        return run(place.folder / "jobs", f"predict_{n}_{i}", "predict", **request)

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(SHARDS) as pool:
            found = list(pool.map(shard, range(SHARDS)))
        seconds = max(one["whole_seconds"] for one in found)
        check = run(
            place.folder / "jobs",
            f"predict_{n}_check",
            "check_predicted",
            corpus=corpus,
            model=model,
            out=out,
        )
        return {
            "seconds": seconds,
            "peak_bytes": [one["peak_bytes"] for one in found],
            "check": check,
        }

    return place.stage(f"predict_{n}", work)


def _row(place: Place, n: int) -> dict[str, Any]:
    corpus, built = place.corpus(n)
    model = place.folder / f"model_{n}"
    trained = place.stage(f"train_{n}", lambda: _train(place, n, corpus, model))
    embedded = predicted(place, n, corpus, model)
    done = {
        "building": built,
        "training": trained,
        "predicting": embedded | {"peak_bytes": max(embedded["peak_bytes"])},
    }
    seconds = {what: found["seconds"] for what, found in done.items()}
    return {"cells": n, "seconds": seconds} | {
        what: found["peak_bytes"] for what, found in done.items()
    }


def _train(place: Place, n: int, corpus: Path, model: Path) -> dict[str, Any]:
    return run(
        place.folder / "jobs",
        f"train_{n}",
        "train",
        corpus=corpus,
        network={"preset": "small"},
        data={},
        steps=STEPS,
        batch_size=BATCH,
        save=model,
    )


def _slope(rows: list[dict[str, Any]], what: str) -> float:
    before, last = rows[-2:]
    return float((last[what] - before[what]) / (last["cells"] - before["cells"]))
