from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted

from scbert_cll import _checks
from scbert_cll._counts import log_normalised
from scbert_cll._gene_names import resolver
from scbert_cll.estimators import _base
from scbert_cll.estimators._base import CellEstimator, Donors, Examples, MatrixEstimator
from scbert_cll.estimators._inner import EarlyStopped, GridSearched, balanced_logistic

# scikit-learn 1.8 chooses the penalty by l1_ratio, and deprecates its former name
_L1: Final[dict[str, str | float]] = (
    {"penalty": "l1"} if LogisticRegression().penalty == "l2" else {"l1_ratio": 1.0}
)
_CLIP: Final = 10.0
_LABEL, _UNLABELLED = "label", "unlabelled"


def baselines(gene: str = "ITGA4") -> dict[str, CellEstimator]:
    """Classifiers to compare a network with: from nothing at all to the strongest usual ones.

    All see raw counts of the training cells only, and what they choose they choose on inner folds
    by donor. Expression is log2(1 + 10,000 c / N) unless said otherwise.

    ``majority``
        The share of each class among the training cells, for every cell.
    ``gene_only``
        Class-balanced logistic regression on one gene. Without that gene it is ``majority``, and
        warns.
    ``library_size``
        Class-balanced logistic regression on the logarithms of total counts and number of genes:
        what depth alone gives away.
    ``logistic_l2``
        Class-balanced L2 logistic regression on genes scaled to unit variance, penalty 10⁻⁴ … 1 by
        inner log-loss. The linear model a network must beat.
    ``logistic_l1``
        L1 logistic regression, one class against the rest, as in [1]_, penalty 0.01 … 1 by inner
        log-loss.
    ``logistic_sgd``
        CellTypist's recipe [2]_: scaled genes (not centred, so they stay sparse) clipped at 10,
        logistic regression by stochastic gradient descent.
    ``random_forest``
        500 trees, classes balanced per tree.
    ``gradient_boosting``
        Histogram gradient boosting on the (at most) 2,000 most variable genes.
    ``knn``
        15 nearest neighbours in 50 principal components.
    ``mlp_tokens``
        scBERT's classification head without the Performer: hidden layers of 512 and 128 on its
        tokens, epochs by early stopping.
    ``pseudobulk``
        Logistic regression on the summed counts of each donor and class; a cell is scored with its
        weights, and the training cells' scores set slope and intercept.

    Parameters
    ----------
    gene
        The gene of ``gene_only``.

    Returns
    -------
    Unfitted estimators by name.

    References
    ----------
    .. [1] Boiarsky et al. (2023), A deep dive into single-cell RNA sequencing foundation models,
       bioRxiv, doi:10.1101/2023.10.19.563100.
    .. [2] Domínguez Conde et al. (2022), Cross-tissue immune cell analysis reveals tissue-specific
       features in humans, Science 376:eabl5197, doi:10.1126/science.abl5197.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> sorted(sc_cll.estimators.baselines())[:3]
    ['gene_only', 'gradient_boosting', 'knn']
    """
    l2 = make_pipeline(StandardScaler(with_mean=False), balanced_logistic())
    liblinear = LogisticRegression(solver="liblinear", max_iter=1000, **_L1)
    l1 = OneVsRestClassifier(liblinear)
    clip = FunctionTransformer(clipped, accept_sparse=True)
    sgd = SGDClassifier(loss="log_loss", alpha=1e-4)
    boosted = HistGradientBoostingClassifier(early_stopping=False)
    network = EarlyStopped(MLPClassifier((512, 128)))
    penalties = [1e-4, 1e-3, 0.01, 0.1, 1.0]
    models = {
        "majority": DummyClassifier(strategy="prior"),
        "gene_only": GeneOnly(gene),
        "library_size": LibrarySize(),
        "logistic_l2": GridSearched(l2, {"logisticregression__C": penalties}),
        "logistic_l1": GridSearched(l1, {"estimator__C": [0.01, 0.1, 1.0]}),
        "logistic_sgd": make_pipeline(StandardScaler(with_mean=False), clip, sgd),
        "random_forest": RandomForestClassifier(500, class_weight="balanced_subsample"),
        "gradient_boosting": make_pipeline(MostVariable(2000), boosted),
        "knn": make_pipeline(Components(50), KNeighborsClassifier(15)),
        "mlp_tokens": _base.OnMatrix(network, features="tokens"),
        "pseudobulk": Pseudobulk(),
    }
    return {name: _base.as_estimator(model) for name, model in models.items()}


def clipped(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Values of zero or more, cut at 10."""
    return x.minimum(_CLIP)


@dataclass(eq=False, repr=False)
class GeneOnly(MatrixEstimator):
    """Logistic regression on one gene; the classes' shares where the data do not have it."""

    gene: str = "ITGA4"
    rng: int = 0

    def _prepare(self, adata: AnnData, labelled: Examples) -> None:
        self.gene_ = resolver.gene_in_data(self.gene, adata.var_names)
        self.has_gene_ = self.gene_ in adata.var_names
        if not self.has_gene_:
            what = "so gene_only knows nothing but the share of each class"
            remedy = "name a gene of the data: baselines(gene=…)."
            message = f"{self.gene!r} is not in adata.var_names, {what}; {remedy}"
            warnings.warn(message, UserWarning, stacklevel=3)

    def _rows(self, adata: AnnData) -> np.ndarray:
        x = _base.expression(adata, "log2")
        if not self.has_gene_:
            return np.zeros((adata.n_obs, 1), np.float32)
        return np.asarray(x[:, [adata.var_names.get_loc(self.gene_)]].toarray())

    def _classifier(self) -> Any:
        return balanced_logistic() if self.has_gene_ else DummyClassifier()


@dataclass(eq=False, repr=False)
class LibrarySize(MatrixEstimator):
    """Logistic regression on depth: logarithms of total counts and of the number of genes."""

    rng: int = 0

    def _rows(self, adata: AnnData) -> np.ndarray:
        counts, totals = _base.counts_and_totals(adata)
        n_genes = np.asarray(counts.astype(bool).sum(axis=1)).ravel()
        return np.log(np.column_stack([totals, n_genes]))

    def _classifier(self) -> Any:
        return make_pipeline(StandardScaler(), balanced_logistic())


@dataclass(eq=False, repr=False)
class Pseudobulk(MatrixEstimator):
    """Logistic regression on the profiles of donor × class; another one scales a cell's score."""

    C: float = 1.0
    rng: int = 0

    def _prepare(self, adata: AnnData, labelled: Examples) -> None:
        counts = _checks.counts.counts(adata[labelled.rows], None, only_x=True)
        codes, n = labelled.codes, len(labelled.codes)
        donors = np.zeros_like(codes) if labelled.donors is None else labelled.donors
        of_cells = np.column_stack([donors, codes])
        pairs, member = np.unique(of_cells, axis=0, return_inverse=True)
        places, shape = (member.ravel(), np.arange(n)), (len(pairs), n)
        summing = sparse.csr_matrix((np.ones(n), places), shape=shape)
        self.n_profiles_, self.weights_ = len(pairs), np.zeros((adata.n_vars, 1))
        if len(labelled.classes) > 1:
            profiles = log_normalised(summing @ counts, base=2).toarray()
            model = balanced_logistic(self.C)
            model.fit(profiles - profiles.mean(axis=0), pairs[:, 1])
            self.weights_ = model.coef_.T

    def _rows(self, adata: AnnData) -> np.ndarray:
        return np.asarray(_base.expression(adata, "log2") @ self.weights_)

    def _classifier(self) -> Any:
        return make_pipeline(StandardScaler(), balanced_logistic())


@dataclass(eq=False, repr=False)
class MostVariable(TransformerMixin, BaseEstimator):
    """The genes of the largest variance among the cells it is fitted to, dense."""

    n_top: int = 2000

    def fit(self, X: sparse.csr_matrix, y: np.ndarray | None = None) -> Self:
        """Find them."""
        variance = StandardScaler(with_mean=False).fit(X).var_
        self.columns_ = np.sort(np.argsort(-variance, kind="stable")[: self.n_top])
        return self

    def transform(self, X: sparse.csr_matrix) -> np.ndarray:
        """Take their columns."""
        return np.asarray(X[:, self.columns_].toarray(), dtype=np.float32)


@dataclass(eq=False, repr=False)
class Components(TransformerMixin, BaseEstimator):
    """Principal components, as many as there can be up to a number; the matrix stays sparse."""

    n_components: int = 50
    random_state: int = 0

    def fit(self, X: sparse.csr_matrix, y: np.ndarray | None = None) -> Self:
        """Find them."""
        n = min(self.n_components, min(X.shape) - 1)
        pca = PCA(n, svd_solver="arpack", random_state=self.random_state)
        self.pca_ = pca.fit(X.astype(np.float64))
        return self

    def transform(self, X: sparse.csr_matrix) -> np.ndarray:
        """Coordinates of cells."""
        return np.asarray(self.pca_.transform(X.astype(np.float64)))


def optional_baselines(max_epochs: int | None = None) -> dict[str, CellEstimator]:
    """Baselines that train a network of their own: scVI and scANVI. They take minutes per fold.

    Both learn from all cells of the training donors, with or without a label. No batch is
    registered, since the donors to be predicted are not among those of the training; their cells
    are encoded without training.

    ``scvi_logistic``
        Class-balanced logistic regression on scVI's latent space [1]_, penalty by inner log-loss.
    ``scanvi``
        scANVI [2]_ on top of it.

    Parameters
    ----------
    max_epochs
        Epochs of scVI, and of scANVI at most; scvi-tools' own rules where not given.

    Returns
    -------
    Unfitted estimators by name.

    References
    ----------
    .. [1] Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature
       Methods 15:1053, doi:10.1038/s41592-018-0229-2.
    .. [2] Xu et al. (2021), Probabilistic harmonization and annotation of single-cell
       transcriptomics data with deep generative models, Molecular Systems Biology 17:e9620,
       doi:10.15252/msb.20209620.
    """
    logistic, scanvi = SCVILogistic(max_epochs), SCANVIClassifier(max_epochs)
    return {"scvi_logistic": logistic, "scanvi": scanvi}


@dataclass(eq=False, repr=False)
class SCVILogistic(MatrixEstimator):
    """Logistic regression on scVI's latent means."""

    max_epochs: int | None = None
    rng: int = 0

    def _prepare(self, adata: AnnData, labelled: Examples) -> None:
        cells, epochs = _base.counts_only(adata), self.max_epochs
        self.network_ = _scvi().train_scvi(cells, max_epochs=epochs, seed=self.rng)

    def _rows(self, adata: AnnData) -> np.ndarray:
        return np.asarray(_scvi().latent(self.network_, _base.counts_only(adata)))

    def _classifier(self) -> Any:
        model = make_pipeline(StandardScaler(), balanced_logistic())
        return GridSearched(model, {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]})


@dataclass(eq=False, repr=False)
class SCANVIClassifier(CellEstimator):
    """scANVI started from scVI; cells without a label are learned from as such."""

    max_epochs: int | None = None
    rng: int = 0

    def fit(self, adata: AnnData, y: pd.Series, groups: Donors = None) -> Self:
        """Train scVI, then scANVI."""
        labelled = _base.examples(adata, y, groups)
        self.genes_, self.classes_ = adata.var_names, labelled.classes
        scvi, cells = _scvi(), _labelled(adata, labelled)
        labels, seed, epochs = (_LABEL, _UNLABELLED), self.rng, self.max_epochs
        self.network_ = scvi.train_scanvi(cells, *labels, max_epochs=epochs, seed=seed)
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``)."""
        check_is_fitted(self, "network_")
        cells = _labelled(_base.of_genes(adata, self.genes_))
        proba = _scvi().class_probabilities(self.network_, cells)
        codes = [str(code) for code in range(len(self.classes_))]
        return _base.sum_to_one(proba[codes].to_numpy())


def _labelled(adata: AnnData, labelled: Examples | None = None) -> AnnData:
    """The cells with a column of labels: scvi-tools writes to what it is given."""
    cells = _base.counts_only(adata)
    names = np.full(adata.n_obs, _UNLABELLED, dtype=object)
    if labelled is not None:
        names[labelled.rows] = labelled.codes.astype(str)
    cells.obs[_LABEL] = pd.Categorical(names)
    return cells


def _scvi() -> Any:
    """The one file that imports scvi-tools, when it is needed: it takes many seconds."""
    from scbert_cll.model import _scvi

    return _scvi
