"""How much a score owes to the way the cells were split: one classifier, the same cells, three ways."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from scbert_cll._evaluation.folds import Parts, donor_folds

SCHEMES = {
    "A": "oversampled, then split at random",
    "B": "cells split at random",
    "C": "donors split",
}
COLUMNS = ("scheme", "how", "macro_f1", "low", "high", "n_repeats", "n_train", "n_test", "note")
N_FOLDS = 5  # a fold is the 20 % that are tested
N_TREES = 200
MAX_CELLS, MAX_GENES = 4000, 500


def gap(
    log: sparse.csr_matrix,
    y: np.ndarray,
    donors: np.ndarray | None,
    *,
    n_repeats: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Macro-F1 of a random forest on test cells that were chosen in each of the ways.

    Mean and range over the repeats.
    """
    kept = _chosen(y, rng)
    dense = log[kept][:, _expressed(log[kept])].toarray()
    y = y[kept]
    donors = None if donors is None else donors[kept]
    seeds = rng.integers(2**31 - 1, size=3).tolist()
    rows = {"A": _resampled(y, rng), "B": np.arange(len(y))}
    folds = {scheme: _cell_folds(y[which], n_repeats, seeds[0]) for scheme, which in rows.items()}
    if donors is not None and len(np.unique(donors)) > 1:
        rows["C"], folds["C"] = np.arange(len(y)), _donor_folds(y, donors, n_repeats, seeds[1])
    runs = {
        scheme: _runs(dense[rows[scheme]], y[rows[scheme]], folds[scheme], seeds[2])
        for scheme in rows
    }
    table = pd.DataFrame(
        [_row(scheme, found, donors) for scheme, found in runs.items()], columns=list(COLUMNS)
    )
    return table.set_axis(table.index.astype(str))


def _chosen(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells of the classes that every fold can have one of, a random few thousand at most."""
    names, sizes = np.unique(y, return_counts=True)
    usable = np.flatnonzero(np.isin(y, names[sizes >= 2 * N_FOLDS]))
    kept = rng.choice(usable, MAX_CELLS, replace=False) if len(usable) > MAX_CELLS else usable
    names, sizes = np.unique(y[kept], return_counts=True)
    return np.sort(kept[np.isin(y[kept], names[sizes >= N_FOLDS])])


def _expressed(log: sparse.csr_matrix) -> np.ndarray:
    """The genes expressed highest on average: no choice that looks at the classes."""
    mean = np.asarray(log.mean(axis=0)).ravel()
    return np.sort(np.argsort(-mean, kind="stable")[:MAX_GENES])


def _resampled(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every cell once, then copies up to the largest class."""
    names, sizes = np.unique(y, return_counts=True)
    extra = [
        rng.choice(np.flatnonzero(y == c), sizes.max() - n)
        for c, n in zip(names, sizes, strict=True)
    ]
    return np.concatenate([np.arange(len(y)), *extra])


def _cell_folds(y: np.ndarray, n: int, seed: int) -> list[Parts]:
    """One fifth of the cells a repeat; five repeats test every cell once."""
    parts = [
        StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed + i).split(y, y)
        for i in range(-(-n // N_FOLDS))
    ]
    return [fold for part in parts for fold in part][:n]


def _donor_folds(y: np.ndarray, donors: np.ndarray, n: int, seed: int) -> list[Parts]:
    """The same with whole donors.

    A fold that leaves no second class to learn from is passed over.
    """
    n_folds = min(N_FOLDS, len(np.unique(donors)))
    found: list[Parts] = []
    for i in range(-(-n // n_folds)):
        found += donor_folds(y, donors, n_folds, seed + i)
    return [(train, test) for train, test in found[:n] if len(np.unique(y[train])) > 1]


def _runs(x: np.ndarray, y: np.ndarray, folds: list[Parts], seed: int) -> pd.DataFrame:
    """Score and sizes of each repeat."""
    found = []
    for i, (train, test) in enumerate(folds):
        forest = RandomForestClassifier(N_TREES, random_state=(seed + i) % (2**31)).fit(
            x[train], y[train]
        )
        present = np.unique(y[test])  # a class without a test cell has no recall
        score = f1_score(
            y[test], forest.predict(x[test]), labels=present, average="macro", zero_division=0
        )
        found.append({"macro_f1": score, "n_train": len(train), "n_test": len(test)})
    return pd.DataFrame(found, columns=["macro_f1", "n_train", "n_test"])


def _row(scheme: str, runs: pd.DataFrame, donors: np.ndarray | None) -> tuple[object, ...]:
    score = runs["macro_f1"]
    sizes = [int(runs[c].median()) if len(runs) else 0 for c in ("n_train", "n_test")]
    note = ""
    if scheme == "C" and donors is not None and len(np.unique(donors)) < N_FOLDS:
        note = f"{len(np.unique(donors))} donors: one is tested at a time, not a fifth of the cells"
    if not len(runs):
        note = "no donors can be held out so that two classes are left"
    return (
        scheme,
        SCHEMES[scheme],
        score.mean(),
        score.min(),
        score.max(),
        len(runs),
        *sizes,
        note,
    )
