"""The data of a cross-validation: counts, labels, donors, and the folds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import listed
from scbert_cll._evaluation.folds import Fold, Scheme, outer_folds
from scbert_cll._evaluation.intervals import OutOfFold
from scbert_cll._evaluation.leakage.duplicates import profile_hashes
from scbert_cll._keys import slot_name
from scbert_cll.estimators._base import counts_only

PROTEIN = "protein"  # where estimators look for it


@dataclass(frozen=True)
class Task:
    """Counts, labels and donors of the cells.

    Models see rows of it, and nothing else of the user's object.
    """

    cells: AnnData
    codes: np.ndarray
    classes: list[str]
    ordered: bool
    groups: np.ndarray | None
    note: dict[str, Any]  # of counts and donors, for the record

    @classmethod
    def of(
        cls,
        adata: AnnData,
        labels_key: str,
        donor_key: str | None,
        layer: str | None,
        protein_key: str | None,
    ) -> Self:
        """Of an object that is checked here."""
        adata = _checks.adata.anndata(adata)
        labels = _checks.adata.obs_column(adata, labels_key)
        classes = _checks.adata.classes(labels, labels_key)
        codes = _checks.adata.labels(adata, labels_key, classes, np.arange(adata.n_obs))
        is_added = np.asarray(adata.obs.get(_keys.IS_SYNTHETIC, False), dtype=bool)
        if is_added.any():
            added = adata.obs_names[is_added]
            raise ValueError(
                f"{len(added)} cells were added by resampling ({listed(added)}); copies of a cell "
                "would be on both sides of a fold. Start from the cells as measured; each model "
                "balances its own training cells."
            )
        groups, not_donors = None, {}
        if donor_key is not None:
            donors = _checks.people.donors(adata, donor_key)
            codes = np.where(donors.notna(), codes, -1)
            groups = donors.to_numpy(dtype=object)
            not_donors = _checks.people.left_out(donors)
        counts, note = _checks.counts.noted_counts(adata, layer)
        cells = counts_only(adata, counts)
        totals = sparse.csr_matrix(cells.X).sum(axis=1).A1
        _checks.adata.no_empty_cells(totals, adata, slot_name(layer))
        if protein_key is not None:
            cells.obsm[PROTEIN] = _checks.adata.protein_counts(adata, protein_key)
        kind = labels.dtype
        ordered = isinstance(kind, pd.CategoricalDtype) and bool(kind.ordered)
        return cls(cells, codes, classes, ordered, groups, note | not_donors)

    @property
    def counts(self) -> sparse.csr_matrix:
        """Raw counts, cells × genes."""
        return sparse.csr_matrix(self.cells.X)

    def folds(self, scheme: Scheme, n_splits: int, n_repeats: int, seed: int) -> list[Fold]:
        """Folds of the cells that have a donor, where there are donors."""
        rows, donors = np.arange(len(self.codes)), None
        if self.groups is not None:
            rows = np.flatnonzero(pd.notna(self.groups))
            donors = self.groups[rows].astype(str)
        y = self.codes[rows]
        folds = outer_folds(y, donors, scheme, n_splits, n_repeats, seed)
        return [Fold(f.repeat, f.fold, rows[f.train], rows[f.test]) for f in folds]

    def no_twins(self, folds: Sequence[Fold]) -> None:
        """Refuse an expression profile that is on both sides of a fold."""
        profile = pd.factorize(profile_hashes(self.counts))[0]
        for fold in folds:
            shared = np.intersect1d(profile[fold.train], profile[fold.test])
            if len(shared):
                names = self.cells.obs_names[np.isin(profile, shared)]
                raise ValueError(
                    f"{len(names)} cells have the same counts as another one on the other side of "
                    f"a fold ({listed(names)}): copies of a cell in training and test make any "
                    f"model look good. Remove them; tl.leakage_audit lists them."
                )

    def donors_of(self, rows: np.ndarray) -> list[str] | None:
        """Donor of each of these cells."""
        return None if self.groups is None else self.groups[rows].tolist()

    def train(self, rows: np.ndarray) -> tuple[AnnData, pd.Series, pd.Series | None]:
        """Cells, labels and donors of a training part."""
        cells = self.cells[rows].copy()
        y = pd.Series(self._named(self.codes[rows]), cells.obs_names)
        if self.groups is None:
            return cells, y, None
        return cells, y, pd.Series(self.groups[rows], cells.obs_names)

    def test(self, rows: np.ndarray) -> AnnData:
        """Cells of a test part, without proteins; a name may tell its donor."""
        cells = self.cells[rows].copy()
        cells.obsm.clear()
        cells.obs_names = [f"cell{i}" for i in range(cells.n_obs)]
        return cells

    def called(self, proba: np.ndarray) -> pd.Categorical[str]:
        """The most probable class of each labelled cell, from probabilities (cells, classes)."""
        return self._named(np.where(self.codes >= 0, proba.argmax(1), -1))

    def _named(self, codes: np.ndarray) -> pd.Categorical[str]:
        classes = pd.Index(self.classes)
        return pd.Categorical.from_codes(codes, classes, ordered=self.ordered)

    def out_of_fold(
        self, proba: Mapping[str, np.ndarray], baselines: list[str], folds: Sequence[Fold]
    ) -> OutOfFold:
        """Predictions (repeats, cells, classes) of the labelled cells by model."""
        labelled = self.codes >= 0
        fold_of = np.full((len(next(iter(proba.values()))), len(labelled)), -1)
        for fold in folds:
            fold_of[fold.repeat, fold.test] = fold.fold
        return OutOfFold(
            self.classes,
            self.ordered,
            self.codes[labelled],
            None if self.groups is None else self.groups[labelled],
            {name: values[:, labelled] for name, values in proba.items()},
            baselines,
            fold_of[:, labelled],
        )

    def fold_table(self, folds: Sequence[Fold]) -> pd.DataFrame:
        """Who trains and who is tested in each fold."""
        rows = []
        for fold in folds:
            trained, tested = (set(self.donors_of(rows) or ()) for rows in (fold.train, fold.test))
            labelled = fold.train[self.codes[fold.train] >= 0]
            absent = set(range(len(self.classes))) - set(self.codes[labelled])
            names = listed(self.classes[code] for code in sorted(absent))
            note = f"no training cell of {names}" if absent else ""
            donors = (", ".join(sorted(tested)), len(trained), len(tested))
            row = (fold.repeat, fold.fold, *donors, len(labelled), len(fold.test), note)
            rows.append(row)
        columns = ["repeat", "fold", "test_donors", "n_train_donors", "n_test_donors"]
        columns += ["n_train", "n_test", "note"]
        return pd.DataFrame(rows, columns=columns).rename(index=str)
