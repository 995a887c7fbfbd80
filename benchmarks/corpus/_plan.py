"""Hours and money for large corpora: what was measured on processors, and arithmetic for GPUs,
which were not at hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.corpus._cells import EXPRESSED, N_GENES

RESULTS = Path(__file__).parents[1] / "results"
EPOCHS = 5
CELLS = (1_100_000, 50_000_000)
GPUS = (1, 8, 64)
# Cells per second of a training step of the published network at full length, blocks recomputed, on
# a card of the H200's class: operations of a step over 35 % of its bfloat16 peak of 790 TFLOP/s.
# Arithmetic.
GPU_FULL_LENGTH = 279.0
EFFICIENCY = {1: 1.0, 8: 0.95, 64: 0.9}  # assumed
FULL, EXPRESSED_ONLY, SMALL = (
    "published network, full length",
    "published network, expressed genes",
    "small network, expressed genes",
)


def plan(price: float) -> dict[str, Any]:
    """A row for each network, number of cells and machine."""
    rows = []
    for network, rates in _rates().items():
        for cells in CELLS:
            rows += [_row(network, cells, machine, rate, price) for machine, rate in rates.items()]
    return {"epochs": EPOCHS, "price_per_gpu_hour": price, "efficiency": EFFICIENCY, "rows": rows}


def _rates() -> dict[str, dict[str, float]]:
    """Cells per second of each network by machine; 0 GPUs are the two cores of this one."""
    gpu = {FULL: GPU_FULL_LENGTH, EXPRESSED_ONLY: GPU_FULL_LENGTH * (N_GENES + 1) / EXPRESSED}
    found = {name: {"0": rate} for name, rate in _measured().items()}
    for name, rate in gpu.items():
        found.setdefault(name, {}).update({str(n): n * rate * EFFICIENCY[n] for n in GPUS})
    return found


def _measured() -> dict[str, float]:
    """Cells per second on both cores, from the results at hand."""
    found: dict[str, float] = {}
    share, ways = (_read(f"corpus_{name}.json") for name in ("loader-share", "scaling"))
    for row in [] if share is None else share["rows"]:
        if row["workers"] == 0 and row["what"] in (FULL, EXPRESSED_ONLY):
            found[row["what"]] = (
                2 * row["cells_per_second"]
            )  # two processes of one thread each, as below
    for row in [] if ways is None else ways["rows"]:
        if row["way"] == "2 processes":
            found[SMALL] = row["cells_per_second"]["median"]
            for name in (FULL, EXPRESSED_ONLY):
                if name in found:
                    found[name] *= row["efficiency"]["median"]
    return found


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def _row(network: str, cells: int, machine: str, rate: float, price: float) -> dict[str, Any]:
    hours, gpus = EPOCHS * cells / rate / 3600, int(machine)
    kind = "arithmetic" if gpus else "extrapolated from measured steps"
    cost = hours * gpus * price if gpus else None
    return {
        "network": network,
        "cells": cells,
        "gpus": gpus,
        "rate": rate,
        "hours": hours,
        "cost": cost,
        "kind": kind,
    }
