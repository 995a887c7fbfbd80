"""The score among those of random sets of genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._survival.models import fit
from scbert_cll._survival.score_test import score_test
from scbert_cll.tl._prognosis.cohort import (
    CLINICAL,
    DIVISION,
    LEVEL,
    NOTHING,
    Asked,
    Cohort,
    Patients,
)


def against_random_sets(
    cohort: Cohort,
    asked: Asked,
    scored: Patients,
    complete: Patients,
    kept: np.ndarray,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Z of random sets, and where the signature stands among them, beside nothing, the covariates and cell division."""
    drawn, notes = _random_scores(cohort, asked, rng)
    rows_of = {id(scored): np.flatnonzero(cohort.flow.kept), id(complete): np.flatnonzero(kept)}
    arms = [(NOTHING, scored, pd.DataFrame(index=scored.score.index))]
    arms += [(DIVISION, scored, scored.division)] if scored.division.shape[1] else []
    if complete is not scored:
        arms += [(CLINICAL, complete, complete.clinical)]
        both = pd.concat([complete.clinical, complete.division], axis=1)
        arms += [(f"{CLINICAL} + {DIVISION}", complete, both)] if complete.division.shape[1] else []
    found = [
        _against(name, patients, columns, drawn[rows_of[id(patients)]])
        for name, patients, columns in arms
    ]
    null = pd.concat([table for table, _ in found], ignore_index=True).rename(index=str)
    return null, pd.DataFrame([test for _, test in found]).rename(index=str), notes


def _random_scores(
    cohort: Cohort, asked: Asked, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Samples × random sets, or why there are none."""
    none = np.empty((len(cohort.score), 0))
    if cohort.bulk is None or not len(cohort.place):
        return none, ["A column of obs is no set of genes: there is no test against random sets."]
    if not asked.n_random:
        return none, ["No random sets were asked for: there is no empirical p."]
    sets = cohort.bulk.random_sets(cohort.place, asked.n_random, rng)
    if sets is None:
        return none, [
            (
                f"{len(cohort.bulk.usable)} genes are too few to draw others like the "
                f"{len(cohort.place)} of the signature: no random sets."
            )
        ]
    weight = cohort.genes.loc[cohort.genes["found"].astype(bool), "weight"].to_numpy()
    return cohort.bulk.scores(sets, weight, asked.method), []


def _against(
    name: str, patients: Patients, columns: pd.DataFrame, drawn: np.ndarray
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The score and random ones beside the same columns."""
    risk = fit(patients.outcome, columns).risk if columns.shape[1] else np.zeros(len(columns))
    spread = drawn.std(axis=0)
    random = (drawn - drawn.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    both = np.column_stack([patients.score.to_numpy(), random])
    z = score_test(patients.outcome, both, columns.to_numpy(dtype=np.float64), risk)
    own, others = z[0], np.abs(z[1:])
    n = len(others)
    test = {
        "adjusted": name,
        "z": own,
        "naive_p": 2 * stats.norm.sf(abs(own)),
        "empirical_p": (1 + (others >= abs(own)).sum()) / (1 + n) if n else np.nan,
        "n_sets": n,
        "share_significant": (others > stats.norm.ppf(1 - LEVEL / 2)).mean() if n else np.nan,
        "median_abs_z": np.median(others) if n else np.nan,
    }
    return pd.DataFrame({"adjusted": name, "z": z[1:]}), {
        key: float(v) if isinstance(v, np.floating) else v for key, v in test.items()
    }
