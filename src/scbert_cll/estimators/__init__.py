"""Classifiers of cells: scikit-learn's fit and predict_proba, with an AnnData for a matrix."""

from __future__ import annotations

from scbert_cll.estimators._base import CellEstimator, OnMatrix, as_estimator, seeded
from scbert_cll.estimators._baselines import baselines, optional_baselines
from scbert_cll.estimators._resampled import Resampled
from scbert_cll.estimators._scbert import (
    ScBERTEstimator,
    available,
    scbert_arms,
    scbert_variants,
)
from scbert_cll.estimators._tuned import Tuned

__all__ = [
    "CellEstimator",
    "OnMatrix",
    "Resampled",
    "ScBERTEstimator",
    "Tuned",
    "as_estimator",
    "available",
    "baselines",
    "optional_baselines",
    "scbert_arms",
    "scbert_variants",
    "seeded",
]
