"""A linear classifier's opinion of each gene, learned on other donors than it leaves out."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.stats import median_abs_deviation
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from scbert_cll._signature.scale import log_counts

STRENGTH = 0.003  # C of an L2 penalty: strong enough that genes of one module share their weight
N_FOLDS = 4
N_DEVIATIONS = 2.0


def coefficients(counts: sparse.csr_matrix, positive: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Mean coefficient of each gene, per standard deviation of log(1 + counts per 10,000), over fits that leave a part of the donors out.

    Sparse stays sparse: centring would change nothing but the intercept, which is not penalised.
    """
    log = log_counts(counts)
    n_folds = min(N_FOLDS, len(np.unique(donors)))
    found = []
    for train, _ in GroupKFold(n_folds).split(log, positive, donors):
        if len(np.unique(positive[train])) == 2:
            scaled = StandardScaler(with_mean=False, copy=False).fit_transform(log[train])
            found.append(ridge(scaled, positive[train]).coef_[0])
    return np.mean(found, axis=0) if found else np.zeros(counts.shape[1])


def ridge(scaled: np.ndarray | sparse.csr_matrix, positive: np.ndarray) -> LogisticRegression:
    """The linear classifier of all that asks one.

    On one thread, since vectors of genes are too short for several.
    """
    with threadpool_limits(1, user_api="blas"):
        return LogisticRegression(C=STRENGTH, max_iter=2000).fit(scaled, positive)


def threshold(coefficient: np.ndarray) -> float:
    """Size from which a coefficient stands out of the others."""
    return float(N_DEVIATIONS * median_abs_deviation(coefficient))
