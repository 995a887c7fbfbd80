"""Checks of groups of patients that are to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
            f"be compared, too."
        )
    values = obs[key]
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and (values.nunique() > _MOST or (values.dropna() % 1 != 0).any()):
        raise ValueError(
            f"adata.obs[{key!r}] holds {values.nunique()} different numbers, and groups are "
            f"categories. Cut it first (pd.cut) where the cut was fixed "
            f"beforehand, since one that is chosen to make p small proves nothing; or keep it "
            f"continuous: tl.prognosis(score_key={key!r})."
        )
    return categories_of(values)


def chosen_groups(found: pd.Series, key: str, groups: Sequence[str] | None) -> list[str]:
    """The groups to compare, in order."""
    if isinstance(groups, str):
        raise TypeError(
            f"groups must be a list of groups, the reference first; found the text {groups!r}."
        )
    there = list(found.cat.categories)
    order = there if groups is None else [class_name(g) for g in groups]
    unknown = [g for g in order if g not in there]
    if unknown:
        raise ValueError(
            f"adata.obs[{key!r}] has no group {listed(unknown)}; it has {listed(there, _MOST)}."
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
            f"adata.obs[{key!r}] has {len(order)} groups ({listed(order)}), and at most "
            f"{_MOST} can be compared. Name those you mean in "
            "groups=[...], or merge some."
        )
    return order


def large_groups(sizes: Mapping[str, int], least: int) -> None:
    """Enough patients in every group."""
    small = {label: n for label, n in sizes.items() if n < least}
    if small:
        said = ", ".join(f"{label!r} has {n}" for label, n in small.items())
        raise ValueError(
            f"Every group needs {least} patients with an outcome; {said}. Merge groups, name "
            f"the others in groups=[...], or lower min_group."
        )


def events_to_compare(events: Mapping[str, int]) -> None:
    """Events in the reference, which is the first group, and in another one."""
    reference, others = next(iter(events)), list(events)[1:]
    if not events[reference]:
        raise ValueError(
            f"The reference {reference!r} has no events, so nothing has a ratio to it; name a "
            f"group with events first in groups=[...]."
        )
    if not any(events[label] for label in others):
        raise ValueError(f"{listed(others)} has no events; only {reference!r} has.")
