from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.base import is_classifier as _is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.utils.validation import check_is_fitted

from scbert_cll import _checks, pp
from scbert_cll._checks.words import choice
from scbert_cll.estimators import _checks as estimator_checks
from scbert_cll.estimators._inner import Calibrated, accepted

type Features = Literal["log2", "tokens"]

_FEATURES = ("log2", "tokens")
_TARGET_SUM = 1e4


class CellEstimator(ClassifierMixin, BaseEstimator):
    """A classifier of cells: scikit-learn's verbs, with an AnnData in the place of a matrix.

    Subclasses take ``rng``, an integer seed, among their parameters. What they choose while they
    are fitted (a penalty, a number of epochs, genes, components) they choose on the cells given to
    :meth:`fit`, held apart by donor.

    Attributes
    ----------
    classes_
        Names of the classes that have a training cell, in the order of the categories of `y`.
    """

    rng: int
    classes_: np.ndarray

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is made of beside the whole, each predicting classes of its own (:meth:`predict_parts`)."""
        return ()

    def check(self) -> None:
        """Refuse parameters that cannot be, before anything is fitted."""

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> Self:
        """Learn from the labelled cells.

        Parameters
        ----------
        adata
            All cells of the training donors, raw counts in ``X``.
        y
            Class of each cell; missing where it is unlabelled.
        groups
            Donor of each cell.
        """
        raise NotImplementedError

    def predict_parts(self, adata: AnnData) -> list[np.ndarray]:
        """Probabilities (cells × ``classes_``) of the whole, then of each of its :attr:`parts`.

        Parameters
        ----------
        adata
            Cells with raw counts in ``X``.
        """
        return [self.predict_proba(adata)]

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        adata
            Cells with raw counts in ``X``; genes in any order.
        """
        raise NotImplementedError

    def predict(self, adata: AnnData) -> np.ndarray:
        """Most probable class of each cell.

        Parameters
        ----------
        adata
            Cells with raw counts in ``X``.
        """
        found = self.predict_proba(adata).argmax(axis=1)
        return np.asarray(self.classes_[found])


class Examples(NamedTuple):
    """The labelled cells: their rows, class codes, donor codes, and the classes in order."""

    rows: np.ndarray
    codes: np.ndarray
    donors: np.ndarray | None
    classes: np.ndarray


def examples(adata: AnnData, y: pd.Series, groups: pd.Series | None) -> Examples:
    """Cells that may be learned from.

    A class without one is left out, so that the codes are 0, 1 … without a gap.
    """
    _checks.adata.anndata(adata)
    column = estimator_checks.labelled(estimator_checks.one_per_cell(y, adata, "y"))
    rows = np.flatnonzero(column.notna())
    donors = None
    if groups is not None:
        names = _checks.people.named(
            estimator_checks.one_per_cell(groups, adata, "groups"), _checks.people.donor_name
        )
        donors = pd.factorize(names)[0][rows]
    classes = column.cat.categories.to_numpy(dtype=str)
    return Examples(rows, column.cat.codes.to_numpy()[rows].astype(np.int64), donors, classes)


class OnRows(CellEstimator):
    """Cells as rows of a matrix, and a scikit-learn classifier of the labelled ones.

    Subclasses say which.
    """

    def _rows(self, adata: AnnData) -> Any:
        """What is known of each cell (cells × anything)."""
        raise NotImplementedError

    def _classifier(self) -> Any:
        """What learns from the rows, unfitted."""
        raise NotImplementedError

    def fit(
        self,
        adata: AnnData,
        y: pd.Series,
        groups: pd.Series | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Learn from the labelled cells.

        Parameters
        ----------
        adata
            All cells of the training donors, raw counts in ``X``.
        y
            Class of each cell; missing where it is unlabelled.
        groups
            Donor of each cell, for classifiers that take `groups`.
        sample_weight
            Weight of each cell, for classifiers that take it.
        """
        known = examples(adata, y, groups)
        weight = (
            None
            if sample_weight is None
            else estimator_checks.weight_per_cell(sample_weight, adata)[known.rows]
        )
        self.genes_ = adata.var_names
        self.classes_ = known.classes
        x = self._rows(adata[known.rows])
        self.estimator_ = _fitted(self._classifier(), x, known, self.rng, weight)
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        adata
            Cells with raw counts in ``X``; genes in any order.
        """
        check_is_fitted(self, "estimator_")
        return sum_to_one(self.estimator_.predict_proba(self._rows(of_genes(adata, self.genes_))))


class OnMatrix(OnRows):
    """Any scikit-learn classifier of expression as a classifier of cells.

    It sees the labelled cells only, as rows of a CSR float32 matrix, and their classes as codes 0,
    1 … in order.

    Parameters
    ----------
    estimator
        A scikit-learn classifier or pipeline with ``predict_proba``. If its ``fit`` takes `groups`,
        it is given the donors; so is a search whose ``cv`` splits by groups, e.g. ``GridSearchCV(…,
        cv=GroupKFold(3))``.
    features
        ``log2``: log2(1 + 10,000 c / N), with counts c and a cell's total N; ``tokens``: scBERT's
        tokens of it, 0 to 5 (:func:`~scbert_cll.pp.bin_expression`).
    rng
        Seed of every ``random_state`` in `estimator`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> import scbert_cll as sb
    >>> rna = sb.datasets.cll_toy(n_cells=300, n_genes=250)["rna"]
    >>> linear = sb.estimators.OnMatrix(LogisticRegression(C=0.01, max_iter=1000))
    >>> linear.fit(rna, rna.obs["cd49d_true"]).predict_proba(rna).shape
    (300, 2)
    """

    def __init__(self, estimator: Any, features: Features = "log2", rng: int = 0) -> None:
        self.estimator = estimator
        self.features = features
        self.rng = rng

    def _rows(self, adata: AnnData) -> sparse.csr_matrix:
        return expression(adata, self.features)

    def _classifier(self) -> Any:
        return self.estimator


def as_estimator(model: Any) -> CellEstimator:
    """Make a classifier of cells of what a user gives.

    Parameters
    ----------
    model
        An estimator of this room as it is; a scikit-learn classifier or pipeline, which is put
        :class:`OnMatrix`. One that only has a ``decision_function``, which is no probability, is
        calibrated by a sigmoid on inner donor folds.

    Raises
    ------
    TypeError
        It is neither, or it gives no probabilities.
    """
    if isinstance(model, CellEstimator):
        return model
    estimator_checks.is_classifier(
        model, isinstance(model, BaseEstimator) and _is_classifier(model)
    )
    return OnMatrix(model if hasattr(model, "predict_proba") else Calibrated(model))


def seeded(estimator: Any, seed: int) -> Any:
    """Make an unfitted copy in which ``rng`` and every ``random_state``, however deep, is `seed`.

    Parameters
    ----------
    estimator
        An estimator of this room, or of scikit-learn.
    seed
        The seed.
    """
    copy = clone(estimator)
    names = [
        name for name in copy.get_params() if name.rpartition("__")[-1] in ("rng", "random_state")
    ]
    return copy.set_params(**dict.fromkeys(names, seed))


def expression(adata: AnnData, features: str) -> sparse.csr_matrix:
    """Expression as CSR float32: log2(1 + counts per 10,000), or scBERT's tokens of it."""
    choice(features, _FEATURES, "features")
    counts = _checks.counts.counts(adata, None, only_x=True)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    _checks.adata.no_empty_cells(totals, adata, "adata.X")
    if features == "tokens":
        bare = AnnData(
            counts, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names)
        )
        pp.bin_expression(bare, target_sum=_TARGET_SUM, key_added="tokens")
        return sparse.csr_matrix(bare.layers["tokens"], dtype=np.float32)
    x = counts.astype(np.float32)  # a copy
    x.data *= np.repeat((_TARGET_SUM / totals).astype(np.float32), np.diff(x.indptr))
    x.data = np.log2(1 + x.data)
    return x


def of_genes(adata: AnnData, genes: pd.Index) -> AnnData:
    """Cells with exactly these genes, by name."""
    _checks.adata.anndata(adata)
    if adata.var_names.equals(genes):
        return adata
    _checks.genes.known_genes(list(genes), adata)
    return adata[:, genes]


def bare(adata: AnnData) -> AnnData:
    """Raw counts in ``X`` (CSR float32, a copy) under the cells' and genes' names, nothing else."""
    return named(_checks.counts.counts(adata, None, only_x=True), adata)


def named(counts: sparse.csr_matrix, adata: AnnData) -> AnnData:
    """Counts (CSR float32, a copy) under the names of cells and genes, nothing else."""
    cells = AnnData(sparse.csr_matrix(counts, dtype=np.float32, copy=True))
    cells.obs.index = adata.obs_names.copy()
    cells.var.index = adata.var_names.copy()
    return cells


def sum_to_one(proba: np.ndarray) -> np.ndarray:
    """Probabilities in double precision: float32 rows sum to one only as exactly as float32 can."""
    proba = np.asarray(proba, dtype=np.float64)
    return np.asarray(proba / proba.sum(axis=1, keepdims=True))


def _fitted(estimator: Any, x: Any, known: Examples, seed: int, weight: np.ndarray | None) -> Any:
    """Fit a seeded copy.

    Where there is one class only, there is nothing to tell apart and no classifier is asked.
    """
    if len(known.classes) == 1:
        return DummyClassifier(strategy="prior").fit(x, known.codes)
    copy = seeded(estimator, seed)
    arguments = accepted(copy, groups=known.donors, sample_weight=weight)
    if weight is not None:
        estimator_checks.takes_weights(
            estimator, any(name.endswith("sample_weight") for name in arguments)
        )
    return copy.fit(x, known.codes, **arguments)
