"""Whether tl.prognosis says the truth: intervals, p values and gains over many simulated cohorts of
which the truth is known.

    # one small cohort of each kind, some seconds, writes nothing
    python -m benchmarks.prognosis.truth --quick
    # 100 of each, about 20 minutes on one core; --workers 2 for two
    python -m benchmarks.prognosis.truth

The cohorts are those of `datasets.cll_cohort` (300 patients, 1,500 genes), with a planted hazard
ratio of 1.6 per standard deviation or with none, each with its own genes, patients and outcome.
What the score truly adds to the concordance is measured with the fitted models on 2,000 further
patients.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import binomtest

from benchmarks._measure import machine, versions
from scbert_cll import datasets, tl
from scbert_cll._survival import added_value, models
from scbert_cll._survival.outcome import Outcome

RESULTS = Path(__file__).parents[1] / "results"
CLINICAL = ["IGHV", "TP53", "trisomy12", "NOTCH1", "pretreated"]
FULLEST = "clinical + score + proliferation"
KINDS = {
    "planted, 1.6": (1.6, "signature"),
    "planted, 1.0": (1.0, "signature"),
    "decoy": (1.6, "decoy"),
}
LEVEL = 0.05


class Size(NamedTuple):
    """Of a cohort and of what is done with it."""

    patients: int = 300
    further: int = 2000
    sets: int = 400
    redraws: int = 100


SMALL = Size(patients=200, further=300, sets=50, redraws=20)


def asked(cohort: AnnData, which: str, size: Size) -> Any:
    signature = cohort.uns["truth"][which]
    options = {
        "time_key": "TTT",
        "event_key": "treated",
        "covariates": CLINICAL,
        "competing_key": "died_untreated",
    }
    return tl.prognosis(
        cohort, signature, **options, marker=None, n_random=size.sets, n_bootstrap=size.redraws
    )


def one(kind: str, seed: int, size: Size) -> dict[str, Any]:
    """What was said of one cohort, and what is true."""
    ratio, which = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare category in few patients
        everyone = datasets.cll_cohort(
            n_patients=size.patients + size.further, hazard_ratio=ratio, rng=seed
        )
        report = asked(everyone[: size.patients].copy(), which, size)
    found = {"kind": kind, "seed": seed}
    full = report.cox[(report.cox["model"] == FULLEST) & (report.cox["variable"] == "score")].iloc[
        0
    ]
    found |= {
        "log_ratio": full["coef"],
        "low": np.log(full["ci_low"]),
        "high": np.log(full["ci_high"]),
    }
    for test in report.null_tests.itertuples():
        found |= {
            f"naive, {test.adjusted}": test.naive_p,
            f"empirical, {test.adjusted}": test.empirical_p,
        }
        found |= {f"share, {test.adjusted}": test.share_significant}
    gain = report.added_value[report.added_value["measure"] == "Harrell C"].iloc[0]
    found |= {name: gain[name] for name in ("delta", "delta_corrected", "ci_low", "ci_high")}
    found |= {
        "ph_p": full["ph_p"],
        "power": report.power["power"],
        "ratio_of_power": report.power["ratio"],
    }
    return found | {"true_gain": true_gain(report, everyone[size.patients :].copy(), which)}


def true_gain(report: Any, new: AnnData, which: str) -> float:
    """Gain in concordance of the fitted models in patients they have not seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tl.prognosis(
            new,
            new.uns["truth"][which],
            time_key="TTT",
            event_key="treated",
            n_random=0,
            n_bootstrap=0,
        )
    known = new[new.obs[CLINICAL].notna().all(axis=1)]
    columns = models.design(known.obs[CLINICAL]).assign(score=known.obs["prognosis_score"])
    outcome = Outcome(
        known.obs["treated"].to_numpy(dtype=bool), known.obs["TTT"].to_numpy(dtype=np.float64)
    )

    def concordance(model: str) -> float:
        coef = report.cox[report.cox["model"] == model].set_index("variable")["coef"]
        return models.concordance(outcome, columns[coef.index].to_numpy() @ coef.to_numpy())

    return concordance("clinical + score") - concordance("clinical")


def alone(n: int, timed: bool, n_cohorts: int, size: Size) -> dict[str, Any]:
    """A score without any effect, against nothing: how often the gain's interval lies above 0, and
    how often the likelihood ratio has p < .05.
    """
    above, small, gains = [], [], []
    for seed in range(n_cohorts):
        rng = np.random.default_rng(seed)
        x = pd.DataFrame({"score": rng.normal(size=n)})
        time, censored = rng.exponential(size=n), rng.exponential(size=n)
        outcome = Outcome(time <= censored, np.minimum(time, censored) if timed else None)
        measure = {"C": models.concordance}
        found = added_value.gains(
            outcome, x[[]], x, measure, n_bootstrap=size.redraws, rng=rng, progress=False
        )["C"]
        above.append(found.ci_low > 0)
        small.append(added_value.likelihood_ratio(None, models.fit(outcome, x))["lr_p"] < LEVEL)
        gains.append((found.delta, found.delta - found.optimism))
    row = {"patients": n, "outcome": "times" if timed else "yes or no", "cohorts": n_cohorts}
    row |= {
        "interval above 0": share(pd.Series(above)),
        "likelihood ratio p < .05": share(pd.Series(small)),
    }
    return row | dict(
        zip(
            ("gain: apparent", "gain: corrected"),
            (f"{v:.3f}" for v in np.nanmean(gains, axis=0)),
            strict=True,
        )
    )


def share(hits: pd.Series) -> str:
    """A share with its 95 % interval."""
    limits = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{hits.mean():.3f} ({limits.low:.3f}–{limits.high:.3f})"


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of cohort."""
    rows = {}
    for kind, some in runs.groupby("kind", sort=False):
        truth = np.log(KINDS[kind][0]) if KINDS[kind][1] == "signature" else np.nan
        row = {"cohorts": len(some), "mean log ratio": f"{some['log_ratio'].mean():.3f}"}
        inside = (some["low"] <= truth) & (truth <= some["high"])
        row["coverage of its interval"] = share(inside) if np.isfinite(truth) else "–"
        for adjusted in ("none", "clinical", "clinical + proliferation"):
            for way in ("naive", "empirical"):
                row[f"{way} p < .05, {adjusted}"] = share(some[f"{way}, {adjusted}"] < LEVEL)
        row["random sets with p < .05, none"] = f"{some['share, none'].mean():.2f}"
        row["gain: apparent"] = f"{some['delta'].mean():.4f}"
        row["gain: corrected"] = f"{some['delta_corrected'].mean():.4f}"
        row["gain: in new patients"] = f"{some['true_gain'].mean():.4f}"
        row["coverage of the gain's interval"] = share(
            some["true_gain"].between(some["ci_low"], some["ci_high"])
        )
        row["proportional hazards p < .05"] = share(some["ph_p"] < LEVEL)
        rows[kind] = row
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    lines = [
        "| | " + " | ".join(map(str, table.columns)) + " |",
        "|---" * (table.shape[1] + 1) + "|",
    ]
    return (
        "\n".join(
            lines
            + [
                f"| {name} | " + " | ".join(map(str, row)) + " |"
                for name, row in zip(table.index, table.to_numpy(), strict=True)
            ]
        )
        + "\n"
    )


def of_cohorts(n: int, size: Size, workers: int) -> tuple[str, list[dict[str, Any]]]:
    """The first table, and what it is made of."""
    jobs = [(kind, seed, size) for seed in range(n) for kind in KINDS]
    if workers == 1:
        runs = [one(*job) for job in jobs]
    else:
        with ProcessPoolExecutor(workers) as pool:
            runs = list(pool.map(one, *zip(*jobs, strict=True)))
    return markdown(summary(pd.DataFrame(runs))), runs


def of_nothing(n: int, size: Size) -> str:
    """The second table."""
    rows = [
        alone(patients, timed, n, size)
        for patients, timed in ((22, False), (30, True), (60, True), (150, True), (300, True))
    ]
    return markdown(pd.DataFrame(rows).set_index("patients").T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one small cohort of each kind; writes nothing"
    )
    parser.add_argument("--cohorts", type=int, default=100, help="of each kind")
    parser.add_argument(
        "--alone", action="store_true", help="only the second table: scores without any effect"
    )
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    n, size = (1, SMALL) if args.quick else (args.cohorts, Size())
    if not args.alone:
        table, runs = of_cohorts(n, size, args.workers)
        print(table)
    nothing = of_nothing(2 * n, size)
    print(nothing)
    if args.quick:
        return
    (RESULTS / "prognosis_nothing.md").write_text(nothing)
    if not args.alone:
        stamp = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
        stamp |= {
            "versions": versions("scbert-cll", "pandas", "numpy", "scipy"),
            "runs": runs,
        }
        (RESULTS / "prognosis_truth.json").write_text(
            json.dumps(stamp, indent=1, default=float) + "\n"
        )
        (RESULTS / "prognosis_truth.md").write_text(table)


if __name__ == "__main__":
    main()
