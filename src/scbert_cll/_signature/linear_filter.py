"""A linear classifier's coefficient of each gene, learned on other donors than it leaves out."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.stats import median_abs_deviation
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from scbert_cll._counts import log_normalised
from scbert_cll._process import pools

STRENGTH = 0.003  # C of an L2 penalty: strong enough that genes of one module share their weight
N_FOLDS = 4
N_DEVIATIONS = 2.0
_FREE = 10.0  # size of covariates, whose penalty is a hundredth


def coefficients(
    counts: sparse.csr_matrix, positive: np.ndarray, donors: np.ndarray, covariates: np.ndarray
) -> np.ndarray:
    """Coefficient of each gene, per standard deviation of log(1 + counts per 10,000).

    The mean over fits that each leave a part of the donors out. Sparse stays sparse: centring would
    change nothing but the intercept, which is not penalised. Covariates (cells × columns) stand
    beside the genes, hardly penalised.
    """
    log = log_normalised(counts)
    covariates = (
        _FREE * StandardScaler().fit_transform(covariates) if covariates.size else covariates
    )
    n_folds = min(N_FOLDS, len(np.unique(donors)))
    fits = []
    for train, _ in GroupKFold(n_folds).split(log, positive, donors):
        if len(np.unique(positive[train])) == 2:
            scaler = StandardScaler(with_mean=False, copy=False)
            scaled = scaler.fit_transform(log[train])
            if covariates.size:
                scaled = sparse.hstack([scaled, covariates[train]], format="csr")
            fits.append(ridge(scaled, positive[train]).coef_[0, : log.shape[1]])
    return np.mean(fits, axis=0) if fits else np.zeros(counts.shape[1])


def ridge(scaled: np.ndarray | sparse.csr_matrix, positive: np.ndarray) -> LogisticRegression:
    """A logistic regression with the package's penalty.

    On one thread, since vectors of genes are too short for several.
    """
    with pools().limit(limits=1, user_api="blas"):
        return LogisticRegression(C=STRENGTH, max_iter=2000).fit(scaled, positive)


def threshold(coefficient: np.ndarray) -> float:
    """Size from which a coefficient stands out of the others."""
    return float(N_DEVIATIONS * median_abs_deviation(coefficient))
