"""The report of tl.prognosis: the usual p never without the one of random sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

_UNKNOWN = "–"


@dataclass(frozen=True)
class Prognosis:
    """What :func:`~scbert_cll.tl.prognosis` found; ``print`` it for a report in markdown.

    Attributes
    ----------
    cox
        One row per model and coefficient: ``coef``, ``se``, ``ratio`` with its 95 % limits, ``z``,
        ``p``, ``ph_p`` (proportional hazards), ``n``, ``n_events``.
    models
        Patients, events, events per variable, log-likelihood and apparent C of each model.
    added_value
        What the score adds: likelihood ratio, and each measure of discrimination without, with, and
        corrected for optimism.
    null_tests
        The score among random sets: ``z``, ``naive_p``, ``empirical_p``, ``share_significant`` (of
        the random sets).
    null
        ``z`` of every random set.
    flow
        Who was left out and why.
    auc
        AUC at the asked times, where scikit-survival is installed.
    power
        Power for the expected ratio, the events needed for 80 %, and the ratio that would be found
        with 80 %.
    linearity
        Spline against line.
    notes
        What could not be done.
    params
        How it was asked.
    """

    cox: pd.DataFrame
    models: pd.DataFrame
    added_value: pd.DataFrame
    null_tests: pd.DataFrame
    null: pd.DataFrame
    flow: pd.DataFrame
    power: dict[str, float]
    linearity: dict[str, float]
    params: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    auc: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Prognosis:
        """From the record in `uns`."""
        names = cls.__dataclass_fields__.keys() & record.keys()
        return cls(**{name: record[name] for name in names})

    def to_markdown(self) -> str:
        """Patients, effect, random sets, what is added, and what to be careful about."""
        parts = [self._patients(), self._effects(), self._random()]
        parts += [self._added(), self._cautions()]
        return "\n\n".join(["# Prognosis", *(part for part in parts if part)]) + "\n"

    __str__ = to_markdown

    def _patients(self) -> str:
        rows = _rows(self.flow[self.flow["n_left_out"] > 0])
        lost = [f"{row.n_left_out} left out: {row.step}" for row in rows]
        first, last = self.flow.iloc[0], self.flow.iloc[-1]
        least = self.models["events_per_variable"].min()
        covariates = ""
        if len(self.params["covariates"]):  # an array in a record from disk
            covariates = " in the models with covariates"
        return (
            f"{first['n']} samples, {last['n']} with {last['n_events']} events{covariates}"
            f"{f' ({"; ".join(lost)})' if lost else ''}; at least {least:.0f} events for each "
            "coefficient."
        )

    def _effects(self) -> str:
        rows = _rows(self.cox[self.cox["variable"] == "score"])
        ratio = f"{self.params['measure']} per SD (95 % CI)"
        cells = []
        for row in rows:
            effect = f"{row.ratio:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})"
            cells.append([row.model, row.n, row.n_events, effect, p_text(row.p)])
        return _table(["model", "patients", "events", ratio, "p"], cells)

    def _random(self) -> str:
        rows = []
        for row in _rows(self.null_tests):
            small = f"{row.share_significant:.0%}" if row.n_sets else _UNKNOWN
            both = p_text(row.naive_p), p_text(row.empirical_p)
            rows.append([row.adjusted, *both, small])
        head = ["adjusted for", "p", "p among random sets", "random sets with p < 0.05"]
        table = _table(head, rows)
        n = int(self.null_tests["n_sets"].max())
        explained = (
            f"\n\n{n:,} random sets, as large and as expressed; p of score tests. Of the two p the "
            "larger counts."
        )
        return table + explained if n else table

    def _added(self) -> str:
        rows = []
        for row in _rows(self.added_value):
            gain = f"{row.delta:+.3f}, not corrected"
            if np.isfinite(row.delta_corrected):
                gain = f"{row.delta_corrected:+.3f} ({row.ci_low:+.3f} to {row.ci_high:+.3f})"
            before = f"{row.base_value:.3f} ({row.base})"
            after = f"{row.full_value:.3f}"
            rows.append([row.measure, before, after, gain, p_text(row.lr_p)])
        gained = "gain, corrected (95 % CI)"
        head = ["measure", "without the score", "with it", gained, "likelihood ratio"]
        return _table(head, rows)

    def _cautions(self) -> str:
        power, measure = self.power, self.params["measure"]
        of_power = (
            f"{'Underpowered' if power['underpowered'] else 'Power'}: {power['n_events']} events "
            f"show a {measure} of {power['ratio']:g} per SD with {power['power']:.0%} probability; "
            f"80 % needs {power['n_events_needed']:.0f} events, or a {measure} of "
            f"{power['detectable_ratio']:.2f}."
        )
        cautions = [of_power]
        changing = self.cox[self.cox["ph_p"] < 0.05].sort_values("ph_p")
        changing = changing.drop_duplicates("variable")
        if len(changing):
            named = "; ".join(
                f"{row.variable} in '{row.model}' (p = {p_text(row.ph_p)})"
                for row in _rows(changing)
            )
            cautions.append(
                f"Hazards are not proportional: {named}. Such a ratio is a mean over time."
            )
        if self.linearity["p"] < 0.05:
            p = p_text(self.linearity["p"])
            cautions.append(
                f"The effect of the score is not linear (spline, p = {p}): a ratio per SD misses "
                "its form."
            )
        return "\n".join(f"- {text}" for text in [*cautions, *self.notes])


def _rows(table: pd.DataFrame) -> list[Any]:
    """Rows with named fields."""
    return list(table.itertuples())


def _table(columns: list[str], rows: list[list[object]]) -> str:
    """A table in Markdown."""
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(head + [f"| {' | '.join(map(str, row))} |" for row in rows])


def p_text(p: float) -> str:
    """Two digits, and never a p that looks like zero."""
    if not np.isfinite(p):
        return _UNKNOWN
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}".replace("e-0", "e-")
