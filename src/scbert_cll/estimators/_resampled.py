from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.utils.validation import has_fit_parameter

from scbert_cll import _checks, _docs, _keys, pp
from scbert_cll._checks.words import choice
from scbert_cll.estimators import _base
from scbert_cll.estimators._base import Donors, MetaEstimator, OnMatrix

Method = Literal["none", "weights", "oversample", "undersample", "smote"]

_LABEL, _DONOR, _PART = "_label", "_donor", "_part"
_NEIGHBOURS = 5


@_docs.shared
@dataclass(eq=False, repr=False)
class Resampled(MetaEstimator):
    """An estimator whose training cells are balanced by class, inside the fit.

    So each way of balancing is one call for any estimator, and no copy of a cell can be on both
    sides of an outer fold. Probabilities are those of balanced classes; they are not brought back
    to the classes' shares.

    Parameters
    ----------
    estimator
        An estimator of cells, or a scikit-learn classifier, which is put :class:`OnMatrix`.
    method
        As in :func:`~scbert_cll.pp.balance`: ``oversample``, ``undersample``, ``smote``;
        ``weights`` for estimators that take `sample_weight`; ``none``, for comparison.
    rng
        Seed of the resampling and of the estimator.

    Notes
    -----
    The estimator gets ``X``, ``obs``, ``var``, ``varm`` and ``uns`` of the cells; layers, ``obsm``
    and graphs are left out. Copies stay with their originals in inner folds: they share the donor,
    and a classifier :class:`OnMatrix` without `groups` is told the original cell in its place.
    SMOTE's cells count to the donor of their nearer parent, so that something of a cell can be on
    both sides of an inner fold. There, and wherever inner folds cannot be by donor, choices are
    optimistic; the outer test cells are never concerned. With fewer than 6 cells in a class SMOTE
    looks at fewer neighbours.
    """

    estimator: Any
    method: Method = "oversample"
    rng: int = 0

    def fit(self, adata: AnnData, y: pd.Series, groups: Donors = None) -> Self:
        """Balance the labelled cells by class, then learn from them.

        Parameters
        ----------
        %(training_cells)s
        """
        choice(self.method, get_args(Method), "method")
        inner = _base.seeded(_base.as_estimator(self.estimator), self.rng)
        if self.method == "weights" and not has_fit_parameter(inner, "sample_weight"):
            _base.refuse_weights(inner)
        labelled = _base.examples(adata, y, groups)
        if self.method == "none" or len(labelled.classes) == 1:
            self.estimator_ = inner.fit(adata, y, groups)
        else:
            k = smote_neighbours(int(np.bincount(labelled.codes).min()))
            cells = self._balance(adata, y, groups, k)
            obs = cast("pd.DataFrame", cells.obs)
            labels, members = obs.pop(_LABEL), donors_of_all(obs.pop(_DONOR), groups)
            # without donors, cells take their place where they serve inner folds and nothing else
            takes_cells = groups is not None or isinstance(inner, OnMatrix)
            donors = members if takes_cells else None
            weights = {}
            if self.method == "weights":
                weights["sample_weight"] = obs.pop(_keys.BALANCE_WEIGHT).to_numpy()
            self.estimator_ = inner.fit(cells, labels, donors, **weights)
        self.classes_ = self.estimator_.classes_
        return self

    def _balance(self, adata: AnnData, y: pd.Series, groups: Donors, k: int) -> AnnData:
        """New object with the cells after balancing, their labels and their donors."""
        obs = cast("pd.DataFrame", adata.obs).copy()
        obs[_LABEL], obs[_PART] = y.astype("category"), _keys.TRAIN
        obs[_DONOR] = obs.index.astype(str) if groups is None else groups.astype(str)
        counts = _checks.counts.counts(adata, None, only_x=True)
        new = AnnData(counts, obs=obs, var=cast("pd.DataFrame", adata.var))
        new.varm.update(adata.varm)
        new.uns.update(adata.uns)
        method, rng = cast("Any", self.method), self.rng
        pp.balance(new, _LABEL, method=method, split_key=_PART, k_neighbors=k, rng=rng)
        del cast("pd.DataFrame", new.obs)[_PART]
        return new


def smote_neighbours(n_cells: int) -> int:
    """Number of neighbours that a cell of the smallest class, of so many cells, can have in it."""
    return max(1, min(_NEIGHBOURS, n_cells - 1))


def donors_of_all(donors: pd.Series, groups: Donors) -> pd.Series:
    """Donor of each cell.

    Of a cell between two donors, that of the nearer one, whose name it goes by.
    """
    donors = donors.astype(object)
    between = donors.isna()
    if between.any():
        parents = [re.sub(r"-smote\d+$", "", name) for name in donors.index[between]]
        if groups is not None:
            parents = groups.astype(str).loc[parents].tolist()
        donors[between] = parents
    return donors
