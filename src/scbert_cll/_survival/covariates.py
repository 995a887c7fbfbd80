"""Columns of `obs` that can explain an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
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
    obs: Any = adata.obs
    keys = column_names(keys, "covariates")
    for key in keys:
        key_in(key, obs, "adata.obs", "Covariates are columns of obs.")
        refuse_outcome(adata, key, outcome, "take it out of covariates")
        _check_values(obs[key], key)
    if len(set(keys)) < len(keys):
        repeated = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        raise ValueError(f"Covariates are named twice: {listed(repeated)}.")
    return pd.DataFrame({key: obs[key] for key in keys}, index=obs.index)


def refuse_outcome(adata: AnnData, key: str, outcome: Sequence[str], remedy: str) -> None:
    """A column of this outcome, or of one that a reader has marked, cannot explain it."""
    if key in {*outcome, *adata.uns.get(_keys.COHORT, {}).get("outcomes", [])}:
        raise ValueError(f"{key!r} is an outcome, so it cannot explain one; {remedy}.")


def _check_values(values: pd.Series, key: str) -> None:
    if pd.api.types.is_numeric_dtype(values):
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
