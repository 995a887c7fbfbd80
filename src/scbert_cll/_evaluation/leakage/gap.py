"""How much a score owes to the split: one classifier, the same cells, split in three ways."""

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
    n_repeats: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Macro-F1 of a random forest on test cells that were chosen in each of the ways.

    Mean and range over the repeats. `y` holds codes of classes, none missing.
    """
    chosen = _chosen(y, rng)
    # the genes expressed highest on average: no choice that looks at the classes
    mean = np.asarray(log[chosen].mean(axis=0)).ravel()
    genes = np.sort(np.argsort(-mean, kind="stable")[:MAX_GENES])
    dense, y = log[chosen][:, genes].toarray(), y[chosen]
    seeds = rng.integers(2**31 - 1, size=3).tolist()
    rows = {"A": _resampled(y, rng), "B": np.arange(len(y))}
    folds = {scheme: _cell_folds(y[which], n_repeats, seeds[0]) for scheme, which in rows.items()}
    n_donors = N_FOLDS
    if donors is not None:
        n_donors = len(np.unique(donors[chosen]))
        if n_donors > 1:
            rows["C"] = rows["B"]
            folds["C"] = _donor_folds(y, donors[chosen], n_repeats, seeds[1])
    scores = [
        _row(scheme, _runs(dense[at], y[at], folds[scheme], seeds[2]), n_donors)
        for scheme, at in rows.items()
    ]
    return pd.DataFrame(scores, columns=list(COLUMNS)).rename(index=str)


def _chosen(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells of the classes that every fold can have one of, a random few thousand at most."""
    cells = np.flatnonzero(np.bincount(y)[y] >= 2 * N_FOLDS)
    cells = rng.choice(cells, MAX_CELLS, replace=False) if len(cells) > MAX_CELLS else cells
    return np.sort(cells[np.bincount(y[cells])[y[cells]] >= N_FOLDS])


def _resampled(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every cell once, then copies up to the largest class."""
    names, sizes = np.unique(y, return_counts=True)
    n_missing = zip(names, sizes.max() - sizes, strict=True)
    copies = [rng.choice(np.flatnonzero(y == c), n) for c, n in n_missing]
    return np.concatenate([np.arange(len(y)), *copies])


def _cell_folds(y: np.ndarray, n: int, seed: int) -> list[Parts]:
    """One fifth of the cells a repeat; five repeats test every cell once."""
    folds: list[Parts] = []
    for i in range(-(-n // N_FOLDS)):
        folds += StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed + i).split(y, y)
    return folds[:n]


def _donor_folds(y: np.ndarray, donors: np.ndarray, n: int, seed: int) -> list[Parts]:
    """The same with whole donors.

    A fold that leaves no second class to learn from is passed over.
    """
    n_folds = min(N_FOLDS, len(np.unique(donors)))
    folds: list[Parts] = []
    for i in range(-(-n // n_folds)):
        folds += donor_folds(y, donors, n_folds, seed + i)
    return [(train, test) for train, test in folds[:n] if len(np.unique(y[train])) > 1]


def _runs(x: np.ndarray, y: np.ndarray, folds: list[Parts], seed: int) -> pd.DataFrame:
    """Score and sizes of each repeat."""
    runs = []
    for i, (train, test) in enumerate(folds):
        forest = RandomForestClassifier(N_TREES, random_state=(seed + i) % (2**31))
        called = forest.fit(x[train], y[train]).predict(x[test])
        present = np.unique(y[test])  # a class without a test cell has no recall
        score = f1_score(y[test], called, labels=present, average="macro", zero_division=0)
        runs.append((score, len(train), len(test)))
    return pd.DataFrame(runs, columns=["macro_f1", "n_train", "n_test"])


def _row(scheme: str, runs: pd.DataFrame, n_donors: int) -> tuple[object, ...]:
    score, note, sizes = runs["macro_f1"], "", [0, 0]
    if runs.empty:
        note = "no donors can be held out so that two classes are left"
    else:
        sizes = runs[["n_train", "n_test"]].median().astype(int).tolist()
        if scheme == "C" and n_donors < N_FOLDS:
            note = f"{n_donors} donors: one is tested at a time, not a fifth of the cells"
    scores = (score.mean(), score.min(), score.max())
    return (scheme, SCHEMES[scheme], *scores, len(runs), *sizes, note)
