"""Random gene sets against an outcome: one score test of them all, beside a Cox fit of lifelines
for each.

    python -m benchmarks.prognosis --quick  # 30 sets, a few seconds, writes nothing
    python -m benchmarks.prognosis  # 1,000 sets, some minutes; best with nothing else running

Patients are those of `datasets.cll_cohort`; each set has 30 genes, scored by the sum of its
z-scores with the signs of the planted signature. Before anything is timed, the z of the score test
are compared with the Wald z of the fits, and with them the empirical p of the planted signature and
of every set: the program ends where they differ by more than chance. Each measurement is a process
of its own, with one thread; the two alternate.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks._measure import apart, machine, measured, spread, versions
from scbert_cll import datasets
from scbert_cll._survival import models
from scbert_cll._survival.likelihood import score_test
from scbert_cll._survival.outcome import Outcome

RESULTS = Path(__file__).parents[1] / "results"
N_PATIENTS, N_GENES, N_SETS, REPEATS = 300, 1_500, 1_000, 3
CLINICAL = ["IGHV", "TP53", "trisomy12", "NOTCH1", "age"]
WAYS = ("score test", "Cox fits")
BESIDE = {"nothing": [], "clinical covariates": CLINICAL}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LEAST_CORRELATION = 0.999
SIGNIFICANT = 1.96


class Scene(NamedTuple):
    """Patients with all covariates, and the scores of the planted signature (first) and of random
    sets.
    """

    outcome: Outcome
    columns: pd.DataFrame
    scores: np.ndarray  # (patients, 1 + sets)


def scene(beside: str, n_patients: int, n_sets: int) -> Scene:
    cohort = datasets.cll_cohort(n_patients=n_patients, n_genes=N_GENES)
    cohort = cohort[cohort.obs[CLINICAL].notna().all(axis=1)].copy()
    obs = cohort.obs
    outcome = Outcome(obs["treated"].to_numpy(dtype=bool), obs["TTT"].to_numpy(dtype=np.float64))
    return Scene(outcome, models.design(obs[BESIDE[beside]]), scores(cohort, n_sets))


def scores(cohort: AnnData, n_sets: int) -> np.ndarray:
    """Weighted sums of z-scores of the planted signature (first) and of random sets with its signs;
    mean 0, standard deviation 1.
    """
    z = (cohort.X - cohort.X.mean(axis=0)) / cohort.X.std(axis=0)
    planted, rng = cohort.uns["truth"]["signature"], np.random.default_rng(0)
    sets = [cohort.var_names.get_indexer(planted["gene"])]
    sets += [rng.choice(cohort.n_vars, len(planted), replace=False) for _ in range(n_sets)]
    summed = np.column_stack([z[:, genes] @ planted["weight"].to_numpy() for genes in sets])
    return (summed - summed.mean(axis=0)) / summed.std(axis=0)


def by_score_test(given: Scene) -> np.ndarray:
    """One fit of the covariates, and one test of all scores."""
    columns = given.columns
    risk = models.fit(given.outcome, columns).risk if columns.shape[1] else np.zeros(len(columns))
    return score_test(given.outcome, given.scores, columns.to_numpy(), risk)


def by_fits(given: Scene) -> np.ndarray:
    """A Cox fit for each score."""
    fits = [models.fit(given.outcome, given.columns.assign(score=one)) for one in given.scores.T]
    return np.array([fit.coef["score"] / fit.se["score"] for fit in fits])


def empirical_p(z: np.ndarray) -> np.ndarray:
    """Of each score among the random ones."""
    size = np.abs(z)
    return (1 + (size[None, 1:] >= size[:, None]).sum(axis=1)) / len(size)


def compare(given: Scene) -> dict[str, Any]:
    """How far the two agree; more than chance between them ends the program."""
    z = dict(zip(WAYS, (by_score_test(given), by_fits(given)), strict=True))
    p = {way: empirical_p(values) for way, values in z.items()}
    apart_by, n = np.abs(np.subtract(*p.values())), len(given.scores.T) - 1
    found = {
        "n": len(given.outcome.event),
        "events": given.outcome.n_events,
        "correlation": float(np.corrcoef(*z.values())[0, 1]),
        "largest_difference": float(np.abs(np.subtract(*z.values()))[1:].max()),
        "largest_difference_of_p": float(apart_by.max()),
        "planted": {way: {"z": float(z[way][0]), "p": float(p[way][0])} for way in WAYS},
        "share_significant": {
            way: float((np.abs(z[way][1:]) > SIGNIFICANT).mean()) for way in WAYS
        },
    }
    error = 2 * np.sqrt(
        np.maximum(p[WAYS[1]] * (1 - p[WAYS[1]]), 1 / n) / n
    )  # two standard errors of the draw of sets
    if found["correlation"] < LEAST_CORRELATION or (apart_by > error).any():
        raise SystemExit(f"The score test and the fits differ: {json.dumps(found, indent=1)}")
    return found


def measure(way: str, beside: str, n_patients: int, n_sets: int) -> dict[str, float]:
    given = scene(beside, n_patients, n_sets)
    work = {WAYS[0]: by_score_test, WAYS[1]: by_fits}[way]
    work(given._replace(scores=given.scores[:, :5]))  # imports
    return measured(lambda: work(given), patience=0.5)


def row(beside: str, agreement: dict[str, Any], runs: dict[str, list[dict[str, float]]]) -> str:
    cells = [beside]
    for way in WAYS:
        seconds, peak = (
            np.median([run[key] for run in runs[way]]) for key in ("seconds", "peak_bytes")
        )
        cells.append(f"{seconds:.3g} s, {peak / 1e6:.1f} MB")
    ratios = spread(
        [b["seconds"] / a["seconds"] for a, b in zip(*(runs[way] for way in WAYS), strict=True)]
    )
    cells.append(f"{ratios['median']:,.0f} ({ratios['min']:,.0f} to {ratios['max']:,.0f})")
    cells.append(f"{agreement['correlation']:.5f}; {agreement['largest_difference']:.3f}")
    for key, digits in (("z", ".2f"), ("p", ".3g")):
        cells.append(" / ".join(f"{agreement['planted'][way][key]:{digits}}" for way in WAYS))
    cells.append(f"{agreement['largest_difference_of_p']:.2g}")
    cells.append(" / ".join(f"{agreement['share_significant'][way]:.1%}" for way in WAYS))
    return "| " + " | ".join(cells) + " |"


def table(report: dict[str, dict[str, Any]]) -> str:
    titles = [
        "beside",
        "score test",
        "Cox fits",
        "times faster",
        "z: correlation; largest difference",
    ]
    titles += [
        "planted: z",
        "empirical p",
        "largest difference of any set's p",
        "random sets with p < .05",
    ]
    lines = ["| " + " | ".join(titles) + " |", "| --- " + "| ---: " * (len(titles) - 1) + "|"]
    return (
        "\n".join(
            lines + [row(name, part["agreement"], part["runs"]) for name, part in report.items()]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="30 sets, 150 patients, all in this process; writes nothing",
    )
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        way, beside, n_patients, n_sets = args.measure
        print(json.dumps(measure(way, beside, int(n_patients), int(n_sets))))
        return
    n_patients, n_sets, repeats = (150, 30, 1) if args.quick else (N_PATIENTS, N_SETS, REPEATS)
    report: dict[str, dict[str, Any]] = {}
    for beside in BESIDE:
        agreement = compare(scene(beside, n_patients, n_sets))
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                asked = (way, beside, n_patients, n_sets)
                runs[way].append(
                    measure(*asked)
                    if args.quick
                    else apart(__file__, ["--measure", *asked], ONE_THREAD)
                )
        report[beside] = {"agreement": agreement, "runs": runs}
    print(table(report))
    if not args.quick:
        stamp = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "threads": 1}
        stamp |= {"versions": versions("scbert-cll", "pandas", "numpy", "scipy")}
        stamp |= {"patients": N_PATIENTS, "genes": N_GENES, "sets": N_SETS}
        (RESULTS / "prognosis.json").write_text(
            json.dumps(stamp | {"beside": report}, indent=1) + "\n"
        )
        (RESULTS / "prognosis.md").write_text(table(report))


if __name__ == "__main__":
    main()
