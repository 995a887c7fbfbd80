"""Groups of patients that are to be compared."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scbert_cll._checks.people import categories_of, class_name
from scbert_cll._checks.words import key_in, listed

_MOST = 10


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
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
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
