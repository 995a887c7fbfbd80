"""Columns of `obs`: the outcome as arrays and who lacks it, what can explain it, and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types

from scbert_cll import _keys
from scbert_cll._checks.adata import in_memory
from scbert_cll._checks.people import categories_of, class_name
from scbert_cll._checks.words import column_names, key_in, listed, unique
from scbert_cll._survival import units

type Keys = Sequence[str]  # names of columns

_MOST: Final = 10  # categories


@dataclass(frozen=True)
class OutcomeKeys:
    """The columns of an outcome; without `time` it is known only whether, not when."""

    event: str
    time: str | None = None
    entry: str | None = None
    competing: str | None = None
    strata: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All that are named."""
        keys = (self.event, self.time, self.entry, self.competing, *self.strata)
        return [key for key in keys if key]


@dataclass(frozen=True)
class Outcome:
    """One entry per patient; without `time` it is known only whether, not when."""

    event: np.ndarray  # (n,) bool
    time: np.ndarray | None = None  # (n,) float64, end of follow-up
    entry: np.ndarray | None = None  # (n,) float64, its start, on the same clock
    competing: np.ndarray | None = None  # (n,) bool, the event became impossible
    strata: np.ndarray | None = None  # (n,) int64, each with a baseline of its own

    def take(self, rows: np.ndarray) -> Outcome:
        """Some of the patients, or some of them several times."""
        arrays = {name: a[rows] for name, a in vars(self).items() if a is not None}
        return Outcome(**arrays)

    def strata_rows(self) -> list[np.ndarray]:
        """Positions of the patients of each stratum; without strata they are one."""
        strata = np.zeros(len(self.event)) if self.strata is None else self.strata
        return [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]

    @property
    def n_events(self) -> int:
        return int(self.event.sum())

    @property
    def n_informative(self) -> int:
        """Events; of a yes or no the rarer answer."""
        n_others = int((~self.event).sum())
        return self.n_events if self.time is not None else min(self.n_events, n_others)


@dataclass
class Attrition:
    """Who is left out at which step: the attrition table."""

    event: np.ndarray  # (n,) bool, unknown counts as none
    included: np.ndarray  # (n,) bool
    steps: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def of(cls, event: pd.Series) -> Attrition:
        """All patients, none left out."""
        everyone = np.ones(len(event), dtype=bool)
        table = cls(event.fillna(0).to_numpy(dtype=bool), everyone)
        table._leave_out(~everyone, "in the object")
        return table

    def require(self, rows: pd.Series | np.ndarray, without: str) -> None:
        """Leave out who is not in `rows`; `without` says why, if that is anybody."""
        if (lost := self.included & ~np.asarray(rows, dtype=bool)).any():
            self._leave_out(lost, without)

    def _leave_out(self, lost: np.ndarray, step: str) -> None:
        self.included = self.included & ~lost
        n, n_events = self.size
        numbers = {"n_left_out": int(lost.sum()), "n": n, "n_events": n_events}
        self.steps.append({"step": step, **numbers})

    @property
    def size(self) -> tuple[int, int]:
        """Patients who are left, and those of them with the event."""
        return int(self.included.sum()), int((self.event & self.included).sum())

    def branch(self) -> Attrition:
        """A copy that can go on separately."""
        return Attrition(self.event, self.included.copy(), list(self.steps))

    def table(self) -> pd.DataFrame:
        """One row per step: ``step``, ``n_left_out``, ``n``, ``n_events``."""
        return pd.DataFrame(self.steps).rename(index=str)

    def check_events(self, keys: OutcomeKeys) -> None:
        """Somebody is left who has an outcome, and somebody who has the event."""
        n, n_events = self.size
        if not n:
            raise ValueError(
                f"No patient has an outcome (adata.obs[{keys.event!r}] with its time). Check that "
                "samples and clinical data match."
            )
        if not n_events:
            raise ValueError(
                f"All {n} patients are censored: nobody has the event {keys.event!r}. If events "
                "are coded the other way round, invert the column."
            )
        if not keys.time and n_events == n:
            raise ValueError(
                f"All {n} patients have the event {keys.event!r}; without times there is nothing "
                "to compare."
            )


def patients(adata: object) -> AnnData:
    """An AnnData with one row per patient; genes are not needed for what is in `obs`."""
    samples = in_memory(adata)
    if len(repeated := samples.obs_names[samples.obs_names.duplicated()].unique()):
        raise ValueError(
            f"{len(repeated)} samples are in adata more than once: {listed(repeated)}. A patient "
            "counts once: keep one sample of each. Rename samples of different patients "
            "(obs_names_make_unique would only hide it)."
        )
    if not samples.n_obs:
        raise ValueError("Expected at least one patient; adata has none.")
    return samples


def read(adata: AnnData, keys: OutcomeKeys, unit: units.Unit) -> tuple[Outcome, Attrition]:
    """The outcome of all patients, and which of them have one.

    The arrays of the others hold placeholders.
    """
    obs = cast("pd.DataFrame", adata.obs)
    for key in keys.columns:
        key_in(key, obs, "adata.obs", "Put the outcome into obs, one row per patient.")
    if not keys.time and (keys.entry or keys.competing or keys.strata):
        raise ValueError(
            "Without time_key the outcome is yes or no; entry_key, competing_key and strata need "
            "times."
        )
    distinct(keys.columns, "The columns of the outcome and strata")
    columns = {key: obs[key] for key in keys.strata}
    for key in filter(None, (keys.time, keys.entry)):
        columns[key] = units.times(obs[key], key)
    for key in filter(None, (keys.event, keys.competing)):
        columns[key] = _yes_or_no(obs, key)
    if keys.time and keys.entry:
        entry_before_end(columns[keys.entry], columns[keys.time])
    if keys.competing:
        one_end(columns[keys.event], columns[keys.competing])
    attrition = Attrition.of(columns[keys.event])
    for key in keys.columns:
        attrition.require(columns[key].notna(), f"{key} is missing")
    ends = {"time": keys.time, "entry": keys.entry, "competing": keys.competing}
    arrays = {name: columns[key].fillna(0).to_numpy() for name, key in ends.items() if key}
    if keys.competing:
        arrays["competing"] = arrays["competing"].astype(bool)
    if keys.strata:  # one number for each combination
        by = list(keys.strata)
        number = obs[by].astype(str).groupby(by, observed=True).ngroup()
        arrays["strata"] = number.to_numpy(dtype=np.int64)
    if keys.time:
        why = f"not after {keys.entry}" if keys.entry else "0"
        at_risk = arrays["time"] > arrays.get("entry", 0)
        attrition.require(at_risk, f"no time at risk ({keys.time} is {why})")
    attrition.check_events(keys)
    if keys.time:
        rows = attrition.included
        start = columns[keys.entry][rows] if keys.entry else None
        time = columns[keys.time][rows]
        units.check_unit(time, unit, what="time_unit", entry=start)
        units.check_not_brought_to_years(adata, keys.time, unit)
    return Outcome(attrition.event, **arrays), attrition


def distinct(keys: Keys, what: str) -> None:
    """No column has two roles in an outcome."""
    unique(pd.Index(keys), what, "name a column of its own for each")


def entry_before_end(entry: pd.Series, time: pd.Series) -> None:
    """Nobody leaves before entering."""
    if len(late := entry.index[entry > time]):
        raise ValueError(
            f"{len(late)} patients leave ({time.name!r}) before they enter ({entry.name!r}): "
            f"{listed(late)}. Both must count from the same day and in the same unit."
        )


def one_end(event: pd.Series, competing: pd.Series) -> None:
    """Follow-up ends with the first of two events."""
    if len(both := event.index[(event == 1) & (competing == 1)]):
        raise ValueError(
            f"{len(both)} patients have both {event.name!r} and {competing.name!r}: "
            f"{listed(both)}. Follow-up ends with the first of the two; set the other to 0."
        )


def _yes_or_no(obs: pd.DataFrame, key: str) -> pd.Series:
    """0 and 1, or False and True."""
    column = f"adata.obs[{key!r}]"
    remedy = f" Say what the words mean, e.g. {column}.map({{'yes': 1, 'no': 0}})."
    values = units.numbers_of(obs, key, "0 (no event, censored) and 1 (event)", remedy)
    present = set(values.dropna())
    if others := sorted(present - {0.0, 1.0}):
        hint = " 1 and 2 are R's words: subtract 1." if present <= {1.0, 2.0} else ""
        raise ValueError(
            f"{column} must be 0 (no event, censored) or 1 (event); found "
            f"{listed(f'{value:g}' for value in others)}.{hint}"
        )
    return values


def covariates(adata: AnnData, keys: Keys, outcome: Keys) -> pd.DataFrame:
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


def refuse_outcome(adata: AnnData, key: str, outcome: Keys, remedy: str) -> None:
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


def patient_groups(obs: pd.DataFrame, key: str, taken: Keys) -> pd.Series:
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


def chosen_groups(group: pd.Series, key: str, groups: Keys | None) -> list[str]:
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
