"""Checks of what is told of donors: by protein, by predictions, by columns that are to go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scbert_cll._checks.words import key_in, listed


def recorded(params: Mapping[str, Any], name: str, asked: str, what: str) -> None:
    """What was recorded of an earlier step is what is asked for now.

    Steps that recorded nothing pass.
    """
    found = params.get(name)
    if found is not None and str(found) != asked:
        raise ValueError(
            f"{what} has {name}={str(found)!r}, here it is {asked!r}; pass the same to both."
        )


def known_training(key: str, obs: pd.DataFrame) -> None:
    """A split column, without which nobody knows which donors a model was trained on."""
    remedy = (
        "Which donors did the model learn from? Name the column of the split, or pass "
        "split_key=None if no donor of adata trained it."
    )
    key_in(key, obs, "adata.obs", remedy)


def probabilities(found: Any, key: str) -> pd.DataFrame:
    """Probabilities of classes that go by name."""
    if not isinstance(found, pd.DataFrame):
        raise TypeError(
            f"adata.obsm[{key!r}] must be a DataFrame, cells × classes, as tl.predict writes "
            f"it; found {type(found).__name__}."
        )
    return found


def donor_columns(
    obs: pd.DataFrame, donor: pd.Series, keys: Sequence[str], taken: Sequence[str]
) -> None:
    """Columns with one value per donor, so that they tell something of a patient, under names of their own."""
    if same := sorted(set(keys) & set(taken)):
        raise ValueError(
            f"obs_keys names columns that are made here: {listed(same)}; rename them in adata.obs."
        )
    for key in keys:
        key_in(key, obs, "adata.obs")
        several = obs[key].groupby(donor, observed=True).nunique(dropna=False)
        if len(bad := several.index[several > 1]):
            raise ValueError(
                f"adata.obs[{key!r}] has several values in {len(bad)} donors ({listed(bad)}); "
                f"obs_keys takes columns with one value per donor."
            )
