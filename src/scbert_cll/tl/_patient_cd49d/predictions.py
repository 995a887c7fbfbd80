"""Predictions of cells that speak of patients, and the donors that their model learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _names, get
from scbert_cll._checks.words import key_in


class Predictions(NamedTuple):
    """Probability of positive by cell, donors the model learned from, and where it is from.

    None: there is none.
    """

    positive: pd.Series | None
    trained: set[str]
    source: str


def recorded(params: Mapping[str, Any], step: str, **given: str | None) -> None:
    """Refuse other arguments than an earlier step recorded; of some it recorded nothing."""
    for name, value in given.items():
        if params.get(name) is not None and str(params[name]) != str(value):
            raise ValueError(
                f"{step} has {name}={str(params[name])!r}, here it is {str(value)!r}; pass the "
                f"same to both."
            )


def of_matrix(
    adata: AnnData, donor: pd.Series, key: str, split_key: str | None, labels_key: str
) -> Predictions:
    """Of `obsm`, as a model wrote them."""
    if key not in adata.obsm:
        why = f"{key!r} is not in adata.obsm, and no model= of tl.cross_validate was named"
        return Predictions(None, set(), f"none: {why}")
    proba = adata.obsm[key]
    if not isinstance(proba, pd.DataFrame):
        raise TypeError(
            f"adata.obsm[{key!r}] must be a DataFrame, cells × classes, as tl.predict writes it; "
            f"found {type(proba).__name__}."
        )
    if key == _keys.PROBA:
        # the latter wrote the probabilities, if it is there
        made = adata.uns.get(_keys.SCBERT_PREDICT, adata.uns.get(_keys.SCBERT, {}))
        step = f"The model of adata.obsm[{key!r}]"
        recorded(made.get("params", {}), step, labels_key=labels_key, split_key=str(split_key))
    trained: set[str] = set()
    if split_key is not None:
        remedy = (
            "Which donors did the model learn from? Name the column of the split, or pass "
            "split_key=None if no donor of adata trained it."
        )
        key_in(split_key, cast("pd.DataFrame", adata.obs), "adata.obs", remedy)
        part = _checks.adata.split(adata, split_key, need=()).loc[donor.index]
        trained = set(donor[part.isin([_keys.TRAIN, _keys.VAL])])  # fitted to, or chosen on
    label = _names.own(str(proba.columns[-1]), adata.uns)
    return Predictions(proba.iloc[:, -1], trained, f"adata.obsm[{key!r}], class {label!r}")


def out_of_fold(
    adata: AnnData, donor: pd.Series, model: str, cv_key: str, donor_key: str, labels_key: str
) -> Predictions:
    """Mean over repeats of the predictions for donors that the models had not seen.

    With folds of cells they had.
    """
    key_in(cv_key, adata.uns, "adata.uns", "Run tl.cross_validate first.")
    params, label = adata.uns[cv_key]["params"], str(adata.uns[cv_key]["classes"][-1])
    step = f"tl.cross_validate (key {cv_key!r})"
    recorded(params, step, labels_key=labels_key, donor_key=donor_key)
    table = get.out_of_fold(adata, model=model, key=cv_key)
    positive = table[f"proba_{label}"].groupby(level=0).mean().reindex(adata.obs_names)
    seen = set(donor) if params["scheme"] == "random_cell" else set()
    where = f"adata.uns[{cv_key!r}], {params['scheme']}"
    return Predictions(positive, seen, f"out of fold by {model!r} ({where}), class {label!r}")
