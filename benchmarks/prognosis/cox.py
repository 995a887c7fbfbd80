"""The package's own Cox fit beside that of lifelines, on the same simulated patients.

    python -m benchmarks.prognosis.cox --quick    # 300 patients, some seconds, writes nothing
    python -m benchmarks.prognosis.cox            # 300 and 3,000 patients, a minute

lifelines needs pandas 2, so it is installed in an environment of its own for this. Before anything
is timed, coefficients, standard errors and log-likelihoods are compared: the program ends where
they differ. The two ways alternate in one process with one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import lifelines
import numpy as np
import pandas as pd

from benchmarks._measure import machine, spread, versions
from scbert_cll._survival import models
from scbert_cll._survival.outcome import Outcome

RESULTS = Path(__file__).parents[1] / "results"
N_PATIENTS, N_COLUMNS, REPEATS = (300, 3_000), 10, 15
KINDS = ("plain", "ties", "strata", "delayed entry")
CLOSE = 1e-6


def simulated(n: int, kind: str) -> tuple[Outcome, pd.DataFrame]:
    """Exponential times with effects of all columns; about two thirds have the event."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, N_COLUMNS))
    event = rng.exponential(np.exp(-x @ np.linspace(0.6, -0.3, N_COLUMNS)))
    censored = rng.exponential(1.5, n)
    last = np.minimum(event, censored)
    last = np.ceil(last * 5) / 5 if kind == "ties" else last
    entry = last * rng.uniform(0, 0.8, n) if kind == "delayed entry" else None
    strata = rng.integers(0, 3, n) if kind == "strata" else None
    columns = pd.DataFrame(x, columns=[f"x{i}" for i in range(N_COLUMNS)])
    return Outcome(event <= censored, last, entry, None, strata), columns


def theirs(outcome: Outcome, columns: pd.DataFrame, **options: Any) -> Any:
    frame = columns.assign(time=outcome.time, event=outcome.event)
    if outcome.entry is not None:
        frame, options["entry_col"] = frame.assign(entry=outcome.entry), "entry"
    if outcome.strata is not None:
        frame, options["strata"] = frame.assign(stratum=outcome.strata), ["stratum"]
    return lifelines.CoxPHFitter().fit(frame, "time", "event", **options)


def compare(outcome: Outcome, columns: pd.DataFrame) -> dict[str, float]:
    """Largest differences, where lifelines is asked for more digits than it gives by default."""
    own = models.fit(outcome, columns)
    other = theirs(outcome, columns, fit_options={"precision": 1e-12})
    found = {
        "coef": float((own.coef - other.params_).abs().max()),
        "se": float((own.se - other.standard_errors_).abs().max()),
        "log_likelihood": abs(own.log_likelihood - other.log_likelihood_),
    }
    if max(found.values()) > CLOSE:
        raise SystemExit(f"The two fits differ: {json.dumps(found, indent=1)}")
    return found


def measure(outcome: Outcome, columns: pd.DataFrame, repeats: int) -> dict[str, Any]:
    """Seconds of each way, and how many times faster the package is, by pair of calls."""
    seconds: dict[str, list[float]] = {"own": [], "lifelines": []}
    for _ in range(repeats):
        for way, fit in (("own", models.fit), ("lifelines", theirs)):
            start = time.perf_counter()
            fit(outcome, columns)
            seconds[way].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(seconds["own"], seconds["lifelines"], strict=True)]
    return {way: spread(values) for way, values in seconds.items()} | {"ratio": spread(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="300 patients; writes nothing")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    rows = []
    for n, kind in product(N_PATIENTS[: 1 if quick else None], KINDS):
        scene = simulated(n, kind)
        row = {"patients": n, "kind": kind, "differences": compare(*scene)}
        rows.append(row | measure(*scene, 3 if quick else REPEATS))
        own, other, ratio = (rows[-1][key]["median"] for key in ("own", "lifelines", "ratio"))
        print(f"| {n} | {kind} | {own:.2g} s | {other:.2g} s | {ratio:.3g} |")
    if not quick:
        stamp = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "threads": 1}
        stamp |= {"versions": versions("scbert-cll", "lifelines", "pandas", "numpy", "scipy")}
        report = stamp | {"columns": N_COLUMNS, "rows": rows}
        (RESULTS / "prognosis_cox.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
