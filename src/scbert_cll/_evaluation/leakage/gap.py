"""How much a score owes to the split: one classifier, the same cells, split in three ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score

from scbert_cll._evaluation.folds import Parts, cell_folds, donor_folds

SCHEMES = {
    "A": "oversampled, then split at random",
    "B": "cells split at random",
    "C": "donors split",
}
COLUMNS = (
    *("scheme", "how", "macro_f1", "low", "high"),
    *("n_repeats", "n_train", "n_test", "note"),
)
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
    folds = {
        scheme: _repeated(n_repeats, N_FOLDS, seeds[0], partial(cell_folds, y[which]))
        for scheme, which in rows.items()
    }
    n_donors = N_FOLDS
    if donors is not None:
        n_donors = len(np.unique(donors[chosen]))
        if n_donors > 1:
            split = partial(donor_folds, y, donors[chosen])
            drawn = _repeated(n_repeats, min(N_FOLDS, n_donors), seeds[1], split)
            # a fold that leaves no second class to learn from is passed over
            folds["C"] = [parts for parts in drawn if len(np.unique(y[parts[0]])) > 1]
            rows["C"] = rows["B"]
    scores = [
        _row(scheme, _runs(dense[at], y[at], folds[scheme], seeds[2]), n_donors)
        for scheme, at in rows.items()
    ]
    return pd.DataFrame(scores, columns=list(COLUMNS)).rename(index=str)


def _chosen(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells of the classes that every fold can have one of, a random few thousand at most."""
    cells = np.flatnonzero(np.bincount(y)[y] >= 2 * N_FOLDS)
    if len(cells) > MAX_CELLS:
        cells = rng.choice(cells, MAX_CELLS, replace=False)
    return np.sort(cells[np.bincount(y[cells])[y[cells]] >= N_FOLDS])


def _resampled(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every cell once, then copies up to the largest class."""
    names, sizes = np.unique(y, return_counts=True)
    n_missing = zip(names, sizes.max() - sizes, strict=True)
    copies = [rng.choice(np.flatnonzero(y == c), n) for c, n in n_missing]
    return np.concatenate([np.arange(len(y)), *copies])


def _repeated(
    n: int, n_folds: int, seed: int, split: Callable[[int, int], list[Parts]]
) -> list[Parts]:
    """So many folds; as many repeats as there are folds test every cell once."""
    rounds = range(-(-n // n_folds))
    return [fold for i in rounds for fold in split(n_folds, seed + i)][:n]


def _runs(x: np.ndarray, y: np.ndarray, folds: list[Parts], seed: int) -> pd.DataFrame:
    """Score and sizes of each repeat."""
    runs = []
    for i, (train, test) in enumerate(folds):
        forest = RandomForestClassifier(N_TREES, random_state=(seed + i) % (2**31))
        called = forest.fit(x[train], y[train]).predict(x[test])
        true = y[test]
        classes = np.unique(true)  # a class without a test cell has no recall
        score = f1_score(true, called, labels=classes, average="macro", zero_division=0)
        runs.append((score, len(train), len(test)))
    return pd.DataFrame(runs, columns=["macro_f1", "n_train", "n_test"])


def _row(scheme: str, runs: pd.DataFrame, n_donors: int) -> tuple[object, ...]:
    score, note, sizes = runs["macro_f1"], "", [0, 0]
    if runs.empty:
        note = "no donors can be held out so that two classes are left"
    else:
        sizes = runs[["n_train", "n_test"]].median().astype(int).tolist()
        if scheme == "C" and n_donors < N_FOLDS:
            how = "one is tested at a time, not a fifth of the cells"
            note = f"{n_donors} donors: {how}"
    scores = (score.mean(), score.min(), score.max())
    return (scheme, SCHEMES[scheme], *scores, len(runs), *sizes, note)
