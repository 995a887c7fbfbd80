"""Who trains and who tests: outer folds by donor (or, named as what it is, by cell), and inner ones for every choice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

Scheme = Literal["leave_one_donor_out", "group_kfold", "random_cell"]
SCHEMES: Final = ("leave_one_donor_out", "group_kfold", "random_cell")
_TRIES: Final = 10

Parts = tuple[np.ndarray, np.ndarray]


class Fold(NamedTuple):
    """Rows to train on, with or without a label, and labelled rows to test."""

    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray


def outer_folds(
    y: np.ndarray, groups: np.ndarray | None, *, scheme: Scheme, n_splits: int, n_repeats: int, seed: int
) -> list[Fold]:
    """Folds in which every labelled cell is tested once per repeat.

    `y` holds class codes, −1 for cells without a label; these are never tested. They may be learned from without a
    label where their donor trains, and with ``random_cell`` always.
    """
    labelled = np.flatnonzero(y >= 0)
    own = None if groups is None else groups[labelled]
    folds = []
    for repeat in range(n_repeats):
        for i, test in enumerate(_tests(y[labelled], own, scheme, n_splits, seed + repeat)):
            held = np.zeros(len(y), bool)
            held[labelled[test]] = True
            away = held if groups is None or scheme == "random_cell" else np.isin(groups, np.unique(groups[held]))
            folds.append(Fold(repeat, i, np.flatnonzero(~away), np.flatnonzero(held)))
    return folds


def _tests(y: np.ndarray, groups: np.ndarray | None, scheme: Scheme, n_splits: int, seed: int) -> Iterator[np.ndarray]:
    """Positions of each fold's test cells among the labelled ones."""
    if scheme == "random_cell":
        _enough(int(np.bincount(y).min()), n_splits, "labelled cells in the smallest class")
        yield from (test for _, test in StratifiedKFold(n_splits, shuffle=True, random_state=seed).split(y, y))
        return
    if groups is None:
        raise ValueError(f"scheme={scheme!r} holds donors out and needs to know them: give donor_key=.")
    n_donors = len(np.unique(groups))
    if scheme == "leave_one_donor_out":
        _enough(n_donors, 2, "donors with labelled cells")
        yield from (test for _, test in LeaveOneGroupOut().split(y, y, groups))
        return
    _enough(n_donors, n_splits, "donors with labelled cells")
    yield from (test for _, test in _grouped(y, groups, n_splits, seed))


def _enough(n: int, needed: int, what: str) -> None:
    if n < needed:
        raise ValueError(
            f"Expected at least {needed} {what}, found {n}; ask for fewer folds (n_splits=), or for another scheme "
            "(with one donor only scheme='random_cell' is left, and says nothing of other patients)."
        )


def inner_folds(y: np.ndarray, groups: np.ndarray | None, n_splits: int, seed: int) -> list[Parts]:
    """Positions (train, validation) within training cells, for choices.

    By donor where that leaves every class in every training part, with fewer folds if need be; else by cell,
    stratified. `y` holds class codes, none missing.
    """
    n_donors = 0 if groups is None else len(np.unique(groups))
    for n in range(min(n_splits, n_donors), 1, -1):
        for attempt in range(_TRIES):
            folds = list(_grouped(y, groups, n, seed + attempt))
            if all(len(val) and _complete(y, train) for train, val in folds):
                return folds
    _, counts = np.unique(y, return_counts=True)
    n = min(n_splits, int(counts.min()))
    if n < 2:
        raise ValueError("Inner folds need at least two labelled training cells of every class.")
    return list(StratifiedKFold(n, shuffle=True, random_state=seed).split(y, y))


def _grouped(y: np.ndarray, groups: np.ndarray | None, n: int, seed: int) -> Iterator[Parts]:
    with warnings.catch_warnings():  # a class in fewer cells than folds is possible, and looked at by who asks
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        yield from StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(y, y, groups)


def _complete(y: np.ndarray, train: np.ndarray) -> bool:
    return len(np.unique(y[train])) == len(np.unique(y))
