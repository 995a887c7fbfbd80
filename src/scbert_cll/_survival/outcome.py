"""What happened to each patient, as arrays, and who is left out for want of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scbert_cll._survival import checks as survival_checks


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
class Flow:
    """Who is left out at which step, so that nobody goes unseen."""

    event: np.ndarray  # (n,) bool, unknown counts as none
    kept: np.ndarray  # (n,) bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, event: pd.Series) -> Flow:
        flow = cls(event.fillna(0).to_numpy(dtype=bool), np.ones(len(event), dtype=bool))
        flow._note("in the object", 0)
        return flow

    def keep(self, rows: np.ndarray, without: str) -> None:
        """Leave out who is not in `rows`."""
        lost = int((self.kept & ~rows).sum())
        self.kept = self.kept & rows
        if lost:
            self._note(without, lost)

    def branch(self) -> Flow:
        """The same up to here."""
        return Flow(self.event, self.kept.copy(), list(self.rows))

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).rename(index=str)

    def _note(self, step: str, lost: int) -> None:
        n_events = int((self.event & self.kept).sum())
        self.rows.append(
            {"step": step, "n_left_out": lost, "n": int(self.kept.sum()), "n_events": n_events}
        )


def read(
    obs: pd.DataFrame,
    *,
    time_key: str | None,
    event_key: str,
    entry_key: str | None = None,
    competing_key: str | None = None,
    strata: Sequence[str] = (),
) -> tuple[Outcome, Flow]:
    """The outcome of all patients, and which of them have one.

    The arrays of the others hold placeholders.
    """
    columns = survival_checks.outcome_columns(
        obs, time_key, event_key, entry_key, competing_key, strata
    )
    flow = Flow.of(columns[event_key])
    for key in dict.fromkeys(
        key for key in (event_key, time_key, entry_key, competing_key, *strata) if key
    ):
        flow.keep(columns[key].notna().to_numpy(), f"{key} is missing")
    start = 0.0 if entry_key is None else columns[entry_key].fillna(0).to_numpy(dtype=np.float64)
    time = None if time_key is None else columns[time_key].fillna(0).to_numpy(dtype=np.float64)
    if time is not None:
        flow.keep(
            time > start,
            f"no time at risk ({time_key} is "
            f"{'0' if entry_key is None else 'not after ' + entry_key})",
        )
    survival_checks.enough_events(
        flow.event & flow.kept, flow.kept, event_key, timed=time is not None
    )
    outcome = Outcome(
        flow.event,
        time,
        None if entry_key is None else np.asarray(start),
        None if competing_key is None else columns[competing_key].fillna(0).to_numpy(dtype=bool),
        _codes(columns, strata),
    )
    return outcome, flow


def _codes(columns: pd.DataFrame, strata: Sequence[str]) -> np.ndarray | None:
    """One number per combination of the strata."""
    if not strata:
        return None
    return (
        columns[list(strata)]
        .astype(str)
        .groupby(list(strata), observed=True)
        .ngroup()
        .to_numpy(dtype=np.int64)
    )
