"""The outcome of each patient as arrays, and who is left out because it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.adata import in_memory
from scbert_cll._checks.words import key_in, listed, unique
from scbert_cll._survival.units import (
    Unit,
    check_not_brought_to_years,
    check_unit,
    numbers_of,
    times,
)


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
    entry: np.ndarray | None = None  # (n,) float64, start of observation on the same clock
    competing: np.ndarray | None = None  # (n,) bool, ended by what makes the event impossible
    strata: np.ndarray | None = None  # (n,) int64, each with a baseline of its own

    def take(self, rows: np.ndarray) -> Outcome:
        """Some of the patients, or some of them several times."""
        parts = {name: getattr(self, name) for name in ("time", "entry", "competing", "strata")}
        return Outcome(
            self.event[rows], **{name: None if v is None else v[rows] for name, v in parts.items()}
        )

    @property
    def n_events(self) -> int:
        return int(self.event.sum())

    @property
    def n_informative(self) -> int:
        """Events; of a yes or no the rarer answer."""
        return (
            self.n_events
            if self.time is not None
            else int(min(self.event.sum(), (~self.event).sum()))
        )


@dataclass
class Attrition:
    """Who is left out at which step: the attrition table."""

    event: np.ndarray  # (n,) bool, unknown counts as none
    included: np.ndarray  # (n,) bool
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, event: pd.Series) -> Attrition:
        """All patients, none left out."""
        table = cls(event.fillna(0).to_numpy(dtype=bool), np.ones(len(event), dtype=bool))
        table._note("in the object", 0)
        return table

    def require(self, rows: np.ndarray, without: str) -> None:
        """Leave out who is not in `rows`."""
        lost = int((self.included & ~rows).sum())
        self.included = self.included & rows
        if lost:
            self._note(without, lost)

    def branch(self) -> Attrition:
        """A copy that can go on separately."""
        return Attrition(self.event, self.included.copy(), list(self.steps))

    def table(self) -> pd.DataFrame:
        """One row per step: ``step``, ``n_left_out``, ``n``, ``n_events``."""
        return pd.DataFrame(self.steps).rename(index=str)

    def _note(self, step: str, lost: int) -> None:
        n, n_events = int(self.included.sum()), int((self.event & self.included).sum())
        self.steps.append({"step": step, "n_left_out": lost, "n": n, "n_events": n_events})

    def check_events(self, keys: OutcomeKeys) -> None:
        """Somebody is left who has an outcome, and somebody who has the event."""
        n, n_events = int(self.included.sum()), int((self.event & self.included).sum())
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


def patients(adata: Any) -> AnnData:
    """An AnnData with one row per patient; genes are not needed for what is in `obs`."""
    found = in_memory(adata)
    repeated = adata.obs_names[adata.obs_names.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{len(repeated)} samples are in adata more than once: {listed(repeated)}. A patient "
            "counts once: keep one sample of each. Rename samples of different patients "
            "(obs_names_make_unique would only hide it)."
        )
    if not adata.n_obs:
        raise ValueError("Expected at least one patient; adata has none.")
    return found


def read(adata: AnnData, keys: OutcomeKeys, unit: Unit) -> tuple[Outcome, Attrition]:
    """The outcome of all patients, and which of them have one.

    The arrays of the others hold placeholders.
    """
    obs: Any = adata.obs
    for key in keys.columns:
        key_in(key, obs, "adata.obs", "Put the outcome into obs, one row per patient.")
    if not keys.time and (keys.entry or keys.competing or keys.strata):
        raise ValueError(
            "Without time_key the outcome is yes or no; entry_key, competing_key and strata need "
            "times."
        )
    distinct(keys.columns, "The columns of the outcome and strata")
    columns = {key: obs[key] for key in keys.strata}
    columns |= {key: times(obs[key], key) for key in (keys.time, keys.entry) if key}
    columns |= {key: _yes_or_no(obs, key) for key in (keys.event, keys.competing) if key}
    if keys.time and keys.entry:
        entry_before_end(columns[keys.entry], columns[keys.time])
    if keys.competing:
        one_end(columns[keys.event], columns[keys.competing])
    attrition = Attrition.of(columns[keys.event])
    for key in keys.columns:
        attrition.require(columns[key].notna().to_numpy(), f"{key} is missing")

    def array(key: str | None, dtype: type) -> np.ndarray | None:
        return None if key is None else columns[key].fillna(0).to_numpy(dtype=dtype)

    time, entry = array(keys.time, np.float64), array(keys.entry, np.float64)
    if time is not None:
        why = f"not after {keys.entry}" if keys.entry else "0"
        attrition.require(
            time > (0 if entry is None else entry), f"no time at risk ({keys.time} is {why})"
        )
    attrition.check_events(keys)
    if keys.time is not None:
        rows = attrition.included
        start = columns[keys.entry][rows] if keys.entry else None
        check_unit(columns[keys.time][rows], unit, parameter="time_unit", entry=start)
        check_not_brought_to_years(adata, keys.time, unit)
    competing = array(keys.competing, bool)
    return Outcome(attrition.event, time, entry, competing, _codes(obs, keys.strata)), attrition


def distinct(keys: Sequence[str], what: str) -> None:
    """No column has two roles in an outcome."""
    unique(pd.Index(keys, dtype=object), what, "name a column of its own for each")


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
    remedy = f" Say what the words mean, e.g. adata.obs[{key!r}].map({{'yes': 1, 'no': 0}})."
    values = numbers_of(obs, key, "0 (no event, censored) and 1 (event)", remedy)
    present = set(values.dropna())
    if others := sorted(present - {0.0, 1.0}):
        hint = " 1 and 2 are R's words: subtract 1." if present <= {1.0, 2.0} else ""
        raise ValueError(
            f"adata.obs[{key!r}] must be 0 (no event, censored) or 1 (event); found "
            f"{listed(f'{value:g}' for value in others)}.{hint}"
        )
    return values


def _codes(obs: pd.DataFrame, strata: Sequence[str]) -> np.ndarray | None:
    """One number per combination of the strata."""
    if not strata:
        return None
    names = obs[list(strata)].astype(str)
    return names.groupby(list(strata), observed=True).ngroup().to_numpy(dtype=np.int64)
