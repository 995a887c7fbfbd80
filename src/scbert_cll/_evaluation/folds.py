"""Who trains and who tests: outer folds by donor or by cell, and inner ones for every choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold

from scbert_cll import _deal

Scheme = Literal["leave_one_donor_out", "group_kfold", "random_cell"]
SCHEMES: Final = ("leave_one_donor_out", "group_kfold", "random_cell")
_NONE: Final = 1e-9  # a share that is none but for rounding

Parts = tuple[np.ndarray, np.ndarray]
Groups = np.ndarray | None


class Fold(NamedTuple):
    """Rows to train on, with or without a label, and labelled rows to test."""

    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray


def outer_folds(
    y: np.ndarray, groups: Groups, scheme: Scheme, n_splits: int, seeds: Sequence[int]
) -> list[Fold]:
    """Folds in which every labelled cell is tested once per repeat, each with a seed of its own.

    `y` holds class codes, −1 for cells without a label; these are never tested. They may be learned
    from without a label where their donor trains, and with ``random_cell`` always.
    """
    labelled = np.flatnonzero(y >= 0)
    donors = None if groups is None else groups[labelled]
    folds = []
    for repeat, seed in enumerate(seeds):
        tests = _tests(y[labelled], donors, scheme, n_splits, seed)
        for i, test in enumerate(tests):
            tested = np.zeros(len(y), bool)
            tested[labelled[test]] = True
            left_out = tested
            if groups is not None and scheme != "random_cell":
                left_out = np.isin(groups, np.unique(groups[tested]))
            train, test = np.flatnonzero(~left_out), np.flatnonzero(tested)
            folds.append(Fold(repeat, i, train, test))
    return folds


def _tests(
    y: np.ndarray, groups: Groups, scheme: Scheme, n_splits: int, seed: int
) -> list[np.ndarray]:
    """Positions of each fold's test cells among the labelled ones."""
    if scheme == "random_cell":
        n_smallest = int(np.bincount(y).min())
        _enough(n_smallest, n_splits, "labelled cells in the smallest class")
        return [test for _, test in cell_folds(y, n_splits, seed)]
    if groups is None:
        raise ValueError(
            f"scheme={scheme!r} holds donors out and needs to know them: give donor_key=."
        )
    one_out, what = scheme == "leave_one_donor_out", "donors with labelled cells"
    _enough(len(np.unique(groups)), 2 if one_out else n_splits, what)
    if one_out:
        return [test for _, test in LeaveOneGroupOut().split(y, y, groups)]
    return [test for _, test in donor_folds(y, groups, n_splits, seed)]


def cell_folds(y: np.ndarray, n_splits: int, seed: int) -> list[Parts]:
    """Positions (train, test) of folds of cells, stratified by class."""
    return list(StratifiedKFold(n_splits, shuffle=True, random_state=seed).split(y, y))


def _enough(n: int, needed: int, what: str) -> None:
    if n < needed:
        raise ValueError(
            f"Expected at least {needed} {what}, found {n}. Ask for fewer folds (n_splits=), or "
            f"for another scheme. With one donor only scheme='random_cell' is left, which says "
            f"nothing of other patients."
        )


def inner_folds(y: np.ndarray, groups: Groups, n_splits: int, seed: int) -> list[Parts]:
    """Positions (train, validation) within training cells, for choices.

    By donor where that leaves every class in every training part, with fewer folds if need be; else
    by cell, stratified. `y` holds class codes, none missing.
    """
    n_donors = 0 if groups is None else len(np.unique(groups))
    for n in range(min(n_splits, n_donors), 1, -1):
        folds = donor_folds(y, groups, n, seed)
        if all(len(np.unique(y[train])) == len(np.unique(y)) for train, _ in folds):
            return folds
    n = min(n_splits, int(np.unique(y, return_counts=True)[1].min()))
    if n < 2:
        raise ValueError("Folds need at least two labelled training cells of every class.")
    return cell_folds(y, n, seed)


def donor_folds(y: np.ndarray, groups: Groups, n_splits: int, seed: int) -> list[Parts]:
    """Positions (train, test) of folds of whole donors, balanced by donors, cells and classes.

    Every class is in every training part if that can be. scikit-learn's ``StratifiedGroupKFold``
    sorts the groups after it has shuffled them, so that its seed changes nothing where no two
    donors are alike.
    """
    names, donor = np.unique(np.asarray(groups), return_inverse=True)
    classes, code = np.unique(y, return_inverse=True)
    n_cells = np.zeros((classes.size, names.size))
    np.add.at(n_cells, (code, donor), 1)
    weights = _deal.weights_of(n_cells.sum(0), *n_cells)
    shares, rng = np.full(n_splits, 1 / n_splits), np.random.default_rng(seed)
    fold = _deal.deal(weights, shares, rng, lacking=_untaught)[donor]
    tested = [fold == i for i in range(n_splits)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]


def _untaught(got: np.ndarray) -> np.ndarray:
    """Classes that are all in one fold, and so in no training part of it; folds without a donor."""
    empty, whole = got[..., 0] < _NONE, got[..., 2:] > 1 - _NONE
    return _deal.EMPTY * empty.sum(1) + whole.sum((1, 2))
