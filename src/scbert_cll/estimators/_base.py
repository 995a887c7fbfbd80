from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, Self, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.utils.validation import check_is_fitted

from scbert_cll import _checks, _docs, pp
from scbert_cll._checks.people import categories_of, donor_name, named
from scbert_cll._checks.words import choice, listed
from scbert_cll._counts import TARGET_SUM, log_normalised
from scbert_cll.estimators._inner import Calibrated, accepted

Features = Literal["log2", "tokens"]

type Donors = pd.Series | None


@_docs.shared
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
        """Parts of it that predict classes of their own, see :meth:`predict_parts`."""
        return ()

    def check(self) -> None:
        """Refuse parameters that cannot be, before anything is fitted."""

    def fit(self, adata: AnnData, y: pd.Series, groups: Donors = None) -> Self:
        """Learn from the labelled cells.

        Parameters
        ----------
        %(training_cells)s
        """
        raise NotImplementedError

    def predict_parts(self, adata: AnnData) -> list[np.ndarray]:
        """Probabilities (cells × ``classes_``) of the whole, then of each of its :attr:`parts`.

        Parameters
        ----------
        %(raw_cells)s
        """
        return [self.predict_proba(adata)]

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        %(raw_cells)s
        """
        raise NotImplementedError

    def predict(self, adata: AnnData) -> np.ndarray:
        """Most probable class of each cell.

        Parameters
        ----------
        %(raw_cells)s
        """
        return np.asarray(self.classes_[self.predict_proba(adata).argmax(axis=1)])


class Examples(NamedTuple):
    """The labelled cells: their rows, class codes, donor codes, and the classes in order."""

    rows: np.ndarray
    codes: np.ndarray
    donors: np.ndarray | None
    classes: np.ndarray


def examples(adata: AnnData, y: pd.Series, groups: Donors) -> Examples:
    """The labelled cells.

    A class without one is left out, so that the codes are 0, 1 … without a gap.
    """
    _checks.adata.anndata(adata)
    column = categories_of(_one_per_cell(y, adata, "y"))
    rows = np.flatnonzero(column.notna())
    if not rows.size:
        raise ValueError(
            f"y has no label in any of the {len(y)} training cells; there is nothing to learn from."
        )
    donors = None
    if groups is not None:
        names = named(_one_per_cell(groups, adata, "groups"), donor_name)
        donors = pd.factorize(names)[0][rows]
    classes = column.cat.categories.to_numpy(dtype=str)
    codes = column.cat.codes.to_numpy()[rows].astype(np.int64)
    return Examples(rows, codes, donors, classes)


def _one_per_cell(values: Any, adata: AnnData, what: str) -> pd.Series:
    if not isinstance(values, pd.Series):
        raise TypeError(
            f"{what} must be a pandas Series over the cells of adata, found "
            f"{type(values).__name__}."
        )
    if not values.index.equals(adata.obs_names):
        raise ValueError(
            f"{what} must have one value per cell, named and in the order of adata.obs_names "
            f"({adata.n_obs} cells, first {listed(adata.obs_names, 1)}); found {len(values)}, "
            f"first {listed(values.index, 1)}."
        )
    return values


@_docs.shared
class MetaEstimator(CellEstimator):
    """A classifier of cells that fits another one."""

    estimator: Any
    estimator_: CellEstimator

    def check(self) -> None:
        """Refuse parameters that cannot be, before anything is fitted."""
        as_estimator(self.estimator).check()

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        %(raw_cells)s
        """
        return np.asarray(self.estimator_.predict_proba(adata))


@_docs.shared
class MatrixEstimator(CellEstimator):
    """Cells as rows of a matrix, and a scikit-learn classifier of the labelled ones.

    Subclasses say which.
    """

    def _prepare(self, adata: AnnData, labelled: Examples) -> None:
        """Learn from all cells what the rows need."""

    def _rows(self, adata: AnnData) -> Any:
        """Features of each cell (cells × features)."""
        raise NotImplementedError

    def _classifier(self) -> Any:
        """The classifier of the rows, unfitted."""
        raise NotImplementedError

    def fit(
        self,
        adata: AnnData,
        y: pd.Series,
        groups: Donors = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Learn from the labelled cells.

        Parameters
        ----------
        %(training_cells)s
        sample_weight
            Weight of each cell, for classifiers that take it.
        """
        labelled = examples(adata, y, groups)
        if sample_weight is not None:
            sample_weight = _weight_per_cell(sample_weight, adata)[labelled.rows]
        self.genes_, self.classes_ = adata.var_names, labelled.classes
        self._prepare(adata, labelled)
        x = self._rows(adata[labelled.rows])
        if len(self.classes_) == 1:  # nothing to tell apart
            self.estimator_ = DummyClassifier(strategy="prior").fit(x, labelled.codes)
            return self
        model = seeded(self._classifier(), self.rng)
        arguments = accepted(model, groups=labelled.donors, sample_weight=sample_weight)
        is_weighted = any("sample_weight" in name for name in arguments)
        if sample_weight is not None and not is_weighted:
            refuse_weights(model)
        self.estimator_ = model.fit(x, labelled.codes, **arguments)
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        %(raw_cells)s
        """
        check_is_fitted(self, "estimator_")
        x = self._rows(of_genes(adata, self.genes_))
        return sum_to_one(self.estimator_.predict_proba(x))


def _weight_per_cell(weight: np.ndarray, adata: AnnData) -> np.ndarray:
    weight = np.asarray(weight, dtype=np.float64)
    is_weight = np.isfinite(weight) & (weight >= 0)
    if weight.shape != (adata.n_obs,) or not is_weight.all():
        raise ValueError(
            f"sample_weight must hold a finite weight of zero or more for each of the "
            f"{adata.n_obs} cells; found shape {weight.shape}."
        )
    return weight


def refuse_weights(model: Any) -> NoReturn:
    """Say that the examples of a classifier cannot be weighted."""
    raise ValueError(
        f"{type(model).__name__} takes no sample_weight, so it cannot be balanced by weights; "
        f"use method='oversample' or 'undersample'."
    )


@dataclass(eq=False, repr=False)
class OnMatrix(MatrixEstimator):
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
    >>> import scbert_cll as sc_cll
    >>> rna = sc_cll.datasets.cll_toy(n_cells=300, n_genes=250)["rna"]
    >>> linear = sc_cll.estimators.OnMatrix(LogisticRegression(C=0.01, max_iter=1000))
    >>> linear.fit(rna, rna.obs["cd49d_true"]).predict_proba(rna).shape
    (300, 2)
    """

    estimator: Any
    features: Features = "log2"
    rng: int = 0

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
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"{name} is a class; give an instance of it: {name}(…).")
    name = type(model).__name__
    if not isinstance(model, BaseEstimator) or not is_classifier(model):
        raise TypeError(
            f"Expected an estimator of this package or a scikit-learn classifier, found {name}."
        )
    if hasattr(model, "predict_proba"):
        return OnMatrix(model)
    if not hasattr(model, "decision_function"):
        raise TypeError(
            f"{name} has neither predict_proba nor decision_function, so it gives no probabilities."
        )
    return OnMatrix(Calibrated(model))


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
    seeds = ("rng", "random_state")
    names = [name for name in copy.get_params() if name.rpartition("__")[-1] in seeds]
    return copy.set_params(**dict.fromkeys(names, seed))


def expression(adata: AnnData, features: str) -> sparse.csr_matrix:
    """Expression as CSR float32: log2(1 + counts per 10,000), or scBERT's tokens of it."""
    choice(features, get_args(Features), "features")
    counts, totals = counts_and_totals(adata)
    if features == "log2":
        return log_normalised(counts, totals=totals, base=2, dtype=np.float32)
    cells = counts_only(adata, counts)
    pp.bin_expression(cells, target_sum=TARGET_SUM, key_added="tokens")
    return sparse.csr_matrix(cells.layers["tokens"], dtype=np.float32)


def counts_and_totals(adata: AnnData) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Raw counts of ``X``, and their sum in each cell, which is above zero."""
    counts = _checks.counts.counts(adata, None, only_x=True)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    _checks.adata.no_empty_cells(totals, adata, "adata.X")
    return counts, totals


def of_genes(adata: AnnData, genes: pd.Index) -> AnnData:
    """Cells with exactly these genes, by name."""
    _checks.adata.anndata(adata)
    if adata.var_names.equals(genes):
        return adata
    _checks.genes.known_genes(list(genes), adata)
    return adata[:, genes]


def counts_only(adata: AnnData, counts: sparse.csr_matrix | None = None) -> AnnData:
    """Raw counts (CSR float32, a copy) under the names of cells and genes; those of ``X``."""
    if counts is None:
        counts = _checks.counts.counts(adata, None, only_x=True)
    counts = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    axes = (adata.obs_names, adata.var_names)
    obs, var = (pd.DataFrame(index=names.copy()) for names in axes)
    return AnnData(counts, obs=obs, var=var)


def sum_to_one(proba: np.ndarray) -> np.ndarray:
    """Probabilities in double precision: float32 rows sum to one only as exactly as float32 can."""
    proba = np.asarray(proba, dtype=np.float64)
    return np.asarray(proba / proba.sum(axis=1, keepdims=True))
