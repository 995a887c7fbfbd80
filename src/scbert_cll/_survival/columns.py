"""Columns of `obs` beside the outcome: what can explain it, and groups that are to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types

from scbert_cll import _keys
from scbert_cll._checks.people import categories_of, class_name
from scbert_cll._checks.words import key_in, listed

_MOST: Final = 10  # categories


def column_names(keys: Sequence[str], what: str) -> list[str]:
    """Several names, not the letters of one."""
    if isinstance(keys, str):
        raise TypeError(
            f"{what} must be a list of columns of adata.obs; found the text {keys!r}. Write "
            f"[{keys!r}]."
        )
    return list(keys)


def covariates(adata: AnnData, keys: Sequence[str], outcome: Sequence[str]) -> pd.DataFrame:
    """Numbers, or a few categories, that are part of no outcome."""
    obs, keys = cast("pd.DataFrame", adata.obs), column_names(keys, "covariates")
    for key in keys:
        key_in(key, obs, "adata.obs", "Covariates are columns of obs.")
        refuse_outcome(adata, key, outcome, "take it out of covariates")
        _check_values(obs[key], key)
    if len(set(keys)) < len(keys):
        repeated = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        raise ValueError(f"Covariates are named twice: {listed(repeated)}.")
    return obs[keys]


def refuse_outcome(adata: AnnData, key: str, outcome: Sequence[str], remedy: str) -> None:
    """A column of this outcome, or of one that a reader has marked, cannot explain it."""
    if key in {*outcome, *adata.uns.get(_keys.COHORT, {}).get("outcomes", [])}:
        raise ValueError(f"{key!r} is an outcome, so it cannot explain one; {remedy}.")


def _check_values(values: pd.Series, key: str) -> None:
    if types.is_numeric_dtype(values):
        if len(bad := values.index[np.isinf(values.astype(np.float64))]):
            raise ValueError(
                f"The covariate {key!r} is infinite in {listed(bad)}; make it missing (NaN)."
            )
    elif (n := values.nunique()) > _MOST:
        raise ValueError(
            f"The covariate {key!r} has {n} different words "
            f"({listed(values.dropna().unique(), 3)}), and each would get an effect of its own; "
            f"at most {_MOST} are taken. If they are numbers, make them so: "
            f"pd.to_numeric(adata.obs[{key!r}]). Of dates take years; merge categories."
        )


def patient_groups(obs: pd.DataFrame, key: str, taken: Sequence[str]) -> pd.Series:
    """A column of a few groups as a categorical of text, in its own order.

    Numbers only where they are categories.
    """
    key_in(key, obs, "adata.obs", "Name the column of the groups to compare.")
    if key in taken:
        raise ValueError(
            f"groupby={key!r} is part of the outcome, its strata or the covariates; it cannot "
            "be compared, too."
        )
    values = obs[key]
    numeric = types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    if numeric and (values.nunique() > _MOST or (values.dropna() % 1 != 0).any()):
        raise ValueError(
            f"adata.obs[{key!r}] holds {values.nunique()} different numbers, and groups are "
            "categories. Cut it first (pd.cut) at a value fixed beforehand: one chosen to make p "
            f"small proves nothing. Or keep it continuous: tl.prognosis(score_key={key!r})."
        )
    return categories_of(values)


def chosen_groups(group: pd.Series, key: str, groups: Sequence[str] | None) -> list[str]:
    """The groups to compare, in order."""
    if isinstance(groups, str):
        raise TypeError(
            f"groups must be a list of groups, the reference first; found the text {groups!r}."
        )
    categories = list(group.cat.categories)
    order = categories if groups is None else [class_name(label) for label in groups]
    if unknown := [label for label in order if label not in categories]:
        raise ValueError(
            f"adata.obs[{key!r}] has no group {listed(unknown)}; it has "
            f"{listed(categories, _MOST)}."
        )
    if len(set(order)) < len(order):
        raise ValueError(f"groups names a group twice: {listed(order, _MOST)}.")
    if len(order) < 2:
        raise ValueError(
            f"A comparison needs at least two groups; adata.obs[{key!r}] or groups has "
            f"{listed(order)}."
        )
    if len(order) > _MOST:
        raise ValueError(
            f"adata.obs[{key!r}] has {len(order)} groups ({listed(order)}), and at most {_MOST} "
            "can be compared. Name those you mean in groups=[...], or merge some."
        )
    return order
