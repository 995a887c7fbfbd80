"""scVI and scANVI as classifiers of cells: slow, and worth seeing beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from scbert_cll.estimators._base import (
    CellEstimator,
    Examples,
    MatrixEstimator,
    counts_only,
    examples,
    of_genes,
    sum_to_one,
)
from scbert_cll.estimators._inner import GridSearched, balanced_logistic

_LABEL, _UNLABELLED = "label", "unlabelled"


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
    return {"scvi_logistic": SCVILogistic(max_epochs), "scanvi": SCANVIClassifier(max_epochs)}


@dataclass(eq=False, repr=False)
class SCVILogistic(MatrixEstimator):
    """Logistic regression on scVI's latent means."""

    max_epochs: int | None = None
    rng: int = 0

    def _prepare(self, adata: AnnData, labelled: Examples) -> None:
        cells = counts_only(adata)
        self.network_ = _scvi().train_scvi(cells, max_epochs=self.max_epochs, seed=self.rng)

    def _rows(self, adata: AnnData) -> np.ndarray:
        return np.asarray(_scvi().latent(self.network_, counts_only(adata)))

    def _classifier(self) -> Any:
        model = make_pipeline(StandardScaler(), balanced_logistic())
        return GridSearched(model, {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]})


@dataclass(eq=False, repr=False)
class SCANVIClassifier(CellEstimator):
    """scANVI started from scVI; cells without a label are learned from as such."""

    max_epochs: int | None = None
    rng: int = 0

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> Self:
        """Train scVI, then scANVI."""
        labelled = examples(adata, y, groups)
        self.genes_, self.classes_ = adata.var_names, labelled.classes
        names = np.full(adata.n_obs, _UNLABELLED, dtype=object)
        names[labelled.rows] = labelled.codes.astype(str)
        cells, epochs = _labelled(adata, names), self.max_epochs
        self.network_ = _scvi().train_scanvi(
            cells, _LABEL, _UNLABELLED, max_epochs=epochs, seed=self.rng
        )
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``)."""
        check_is_fitted(self, "network_")
        names = np.full(adata.n_obs, _UNLABELLED, dtype=object)
        cells = _labelled(of_genes(adata, self.genes_), names)
        proba = _scvi().class_probabilities(self.network_, cells)
        return sum_to_one(proba[[str(code) for code in range(len(self.classes_))]].to_numpy())


def _labelled(adata: AnnData, labels: np.ndarray) -> AnnData:
    """The cells with a column of labels: scvi-tools writes to what it is given."""
    cells = counts_only(adata)
    cells.obs[_LABEL] = pd.Categorical(labels)
    return cells


def _scvi() -> Any:
    """The one file that imports scvi-tools, when it is needed: it takes many seconds."""
    from scbert_cll.model import _scvi

    return _scvi
