"""The score among those of random sets of genes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._survival.models import fit
from scbert_cll._survival.score_test import score_test
from scbert_cll.tl._prognosis.cohort import (
    CLINICAL,
    NOTHING,
    PROLIFERATION,
    Cohort,
    Options,
    Patients,
)

_LEVEL: Final = 0.05


def against_random_sets(
    cohort: Cohort, options: Options, scored: Patients, complete: Patients, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Z of random sets, the score's rank among them by adjustment, and why there are no sets."""
    random, notes = _random_scores(cohort, options, rng)
    none = pd.DataFrame(index=scored.score.index)
    adjustments = {NOTHING: (scored, none), PROLIFERATION: (scored, scored.proliferation)}
    if complete is not scored:
        both = pd.concat([complete.clinical, complete.proliferation], axis=1)
        adjustments[CLINICAL] = (complete, complete.clinical)
        adjustments[f"{CLINICAL} + {PROLIFERATION}"] = (complete, both)
    if not scored.proliferation.shape[1]:
        adjustments = {name: a for name, a in adjustments.items() if PROLIFERATION not in name}
    parts = [
        _against(name, patients, columns, random[patients.rows])
        for name, (patients, columns) in adjustments.items()
    ]
    null = pd.concat([table for table, _ in parts], ignore_index=True).rename(index=str)
    return null, pd.DataFrame([test for _, test in parts]).rename(index=str), notes


def _random_scores(
    cohort: Cohort, options: Options, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Samples × random sets, or why there are none."""
    score = cohort.score
    none = np.empty((len(score.values), 0))
    if score.bulk is None or not len(score.places):
        return none, ["A column of obs is no set of genes: there is no test against random sets."]
    if not options.n_random:
        return none, ["No random sets were asked for: there is no empirical p."]
    sets = score.bulk.random_sets(score.places, options.n_random, rng)
    if sets is None:
        note = (
            f"{len(score.bulk.usable)} genes are too few to draw others like the "
            f"{len(score.places)} of the signature: no random sets."
        )
        return none, [note]
    weight = score.genes.loc[score.genes["found"].astype(bool), "weight"].to_numpy()
    return score.bulk.scores(sets, weight, options.method), []


def _against(
    name: str, patients: Patients, columns: pd.DataFrame, random: np.ndarray
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Z of the score and of random ones, given the same columns."""
    risk = fit(patients.outcome, columns).risk if columns.shape[1] else np.zeros(len(columns))
    spread = random.std(axis=0)
    standardized = (random - random.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    scores = np.column_stack([patients.score.to_numpy(), standardized])
    z = score_test(patients.outcome, scores, columns.to_numpy(dtype=np.float64), risk)
    size, n = np.abs(z), len(z) - 1
    test = {
        "adjusted": name,
        "z": float(z[0]),
        "naive_p": float(2 * stats.norm.sf(size[0])),
        "empirical_p": float((1 + (size[1:] >= size[0]).sum()) / (1 + n)) if n else np.nan,
        "n_sets": n,
        "share_significant": (
            float((size[1:] > stats.norm.ppf(1 - _LEVEL / 2)).mean()) if n else np.nan
        ),
        "median_abs_z": float(np.median(size[1:])) if n else np.nan,
    }
    return pd.DataFrame({"adjusted": name, "z": z[1:]}), test
