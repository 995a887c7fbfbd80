"""The score among those of random sets of genes."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._survival.likelihood import score_test
from scbert_cll._survival.models import fit
from scbert_cll.tl._prognosis.cohort import Cohort, Patients
from scbert_cll.tl._prognosis.names import CLINICAL, NOTHING, PROLIFERATION

_Z: Final = float(stats.norm.ppf(0.975))  # from which a p is below 0.05


def against_random_sets(
    cohort: Cohort, scored: Patients, complete: Patients, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Z of random sets, the score's rank among them by adjustment, and why there are no sets."""
    random, notes = _draw(cohort, rng)
    none = pd.DataFrame(index=scored.score.index)
    adjustments = [(NOTHING, scored, none)]
    adjustments.append((PROLIFERATION, scored, scored.proliferation))
    if complete is not scored:
        both = pd.concat([complete.clinical, complete.proliferation], axis=1)
        adjustments.append((CLINICAL, complete, complete.clinical))
        adjustments.append((f"{CLINICAL} + {PROLIFERATION}", complete, both))
    parts = [
        _against(name, patients, columns, random[patients.rows])
        for name, patients, columns in adjustments
        if PROLIFERATION not in name or scored.proliferation.shape[1]
    ]
    null = pd.concat([table for table, _ in parts], ignore_index=True).rename(index=str)
    return null, pd.DataFrame([test for _, test in parts]).rename(index=str), notes


def _draw(cohort: Cohort, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Samples × random sets, or why there are none."""
    score, options = cohort.score, cohort.options
    none = np.empty((len(score.values), 0))
    if score.bulk is None or not len(score.places):
        why = "A column of obs is no set of genes: no test against random sets."
        return none, [why]
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
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Z of the score and of random ones, given the same columns."""
    risk = np.zeros(len(columns))
    if columns.shape[1]:
        risk = fit(patients.outcome, columns).risk
    spread = random.std(axis=0)
    standardized = (random - random.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    scores = np.column_stack([patients.score.to_numpy(), standardized])
    z = score_test(patients.outcome, scores, columns.to_numpy(dtype=np.float64), risk)
    size, sizes = abs(z[0]), np.abs(z[1:])
    n = len(sizes)
    test = {
        "adjusted": name,
        "z": float(z[0]),
        "naive_p": float(2 * stats.norm.sf(size)),
        "empirical_p": float((1 + (sizes >= size).sum()) / (1 + n)) if n else np.nan,
        "n_sets": n,
        "share_significant": float((sizes > _Z).mean()) if n else np.nan,
        "median_abs_z": float(np.median(sizes)) if n else np.nan,
    }
    return pd.DataFrame({"adjusted": name, "z": z[1:]}), test
