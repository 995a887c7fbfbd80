"""Checks of what estimators are given: examples, classifiers, weights, spaces of hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.people import categories_of
from scbert_cll._checks.words import listed

_SPECS = (
    '("float", low, high), ("float", low, high, "log"), ("int", low, high) or a list of choices'
)


def one_per_cell(values: Any, adata: AnnData, what: str) -> pd.Series:
    """A Series that belongs to the cells, by name and in their order."""
    if not isinstance(values, pd.Series):
        raise TypeError(
            f"{what} must be a pandas Series over the cells of adata, found "
            f"{type(values).__name__}."
        )
    if not values.index.equals(adata.obs_names):
        raise ValueError(
            f"{what} must have one value per cell, named and in the order of adata.obs_names "
            f"({adata.n_obs} cells, first "
            f"{listed(adata.obs_names, 1)}); found {len(values)}, first {listed(values.index, 1)}."
        )
    return values


def labelled(y: pd.Series) -> pd.Series:
    """Classes as a categorical in which every category has a cell; at least one."""
    column = categories_of(y)
    if not column.notna().any():
        raise ValueError(
            f"y has no label in any of the {len(y)} training cells; there is nothing to learn from."
        )
    return column


def is_classifier(model: Any, known: bool) -> None:
    """An instance of a classifier that can be made to give probabilities."""
    if isinstance(model, type):
        raise TypeError(
            f"{model.__name__} is a class; give an instance of it: {model.__name__}(…)."
        )
    if not known or not hasattr(model, "fit"):
        raise TypeError(
            f"Expected an estimator of this package or a scikit-learn classifier, found "
            f"{type(model).__name__}."
        )
    if not (hasattr(model, "predict_proba") or hasattr(model, "decision_function")):
        raise TypeError(
            f"{type(model).__name__} has neither predict_proba nor decision_function, so it "
            f"gives no probabilities."
        )


def takes_weights(model: Any, taken: bool) -> None:
    """A classifier whose fit can weigh its examples."""
    if not taken:
        raise ValueError(
            f"{type(model).__name__} takes no sample_weight, so it cannot be balanced by weights; "
            "use method='oversample' or 'undersample'."
        )


def weight_per_cell(weight: np.ndarray, adata: AnnData) -> np.ndarray:
    """A finite weight of zero or more for each cell."""
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (adata.n_obs,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(
            f"sample_weight must hold a finite weight of zero or more for each of the "
            f"{adata.n_obs} cells; "
            f"found shape {weight.shape}."
        )
    return weight


def space(space: Mapping[str, Any], known: Iterable[str]) -> None:
    """Hyperparameters that exist, each with something to choose from."""
    known = sorted(known)
    if unknown := [name for name in space if name not in known]:
        raise ValueError(
            f"space names parameters the estimator does not have: {listed(unknown)}; it has "
            f"{listed(known, 40)}."
        )
    for name, spec in space.items():
        if not _is_spec(spec):
            raise ValueError(f"space[{name!r}] must be {_SPECS}; found {spec!r}.")
    if not space:
        raise ValueError(f"space is empty; name at least one parameter and its range: {_SPECS}.")


def _is_spec(spec: Any) -> bool:
    if isinstance(spec, list):
        return len(spec) > 0
    if not isinstance(spec, tuple) or len(spec) not in (3, 4) or spec[0] not in ("float", "int"):
        return False
    low, high = spec[1:3]
    whole = spec[0] == "float" or (isinstance(low, int) and isinstance(high, int))
    log = len(spec) == 3 or (spec[3] == "log" and low > 0)
    return bool(whole and log and low <= high)
