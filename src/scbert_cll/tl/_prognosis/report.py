"""What tl.prognosis found, in words: the usual p never without the one of random sets."""

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
    power: dict[str, Any]
    linearity: dict[str, float]
    params: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    auc: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Prognosis:
        """From what `uns` holds."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__ if name in record})

    def to_markdown(self) -> str:
        """Patients, effect, random sets, what is added, and what to be careful about."""
        parts = [self._patients(), self._effects(), self._random(), self._added(), self._doubts()]
        return "\n\n".join(["# Prognosis", *(part for part in parts if part)]) + "\n"

    def __str__(self) -> str:
        return self.to_markdown()

    def _patients(self) -> str:
        lost = [
            f"{row.n_left_out} left out: {row.step}"
            for row in _records(self.flow)
            if row.n_left_out
        ]
        first, last = self.flow.iloc[0], self.flow.iloc[-1]
        least = self.models["events_per_variable"].min()
        said = (
            f"{first['n']} samples, {last['n']} with {last['n_events']} events in the models with "
            f"covariates"
        )
        said = (
            said
            if self.params["covariates"]
            else f"{first['n']} samples, {last['n']} with {last['n_events']} events"
        )
        lost_text = f" ({'; '.join(lost)})" if lost else ""
        return f"{said}{lost_text}; at least {least:.0f} events for each coefficient."

    def _effects(self) -> str:
        measure = self.params["measure"]
        rows = self.cox[self.cox["variable"] == "score"]
        lines = [
            f"| model | patients | events | {measure} per SD (95 % CI) | p |",
            "|---|---|---|---|---|",
        ]
        for row in _records(rows):
            ratio = f"{row.ratio:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})"
            lines.append(f"| {row.model} | {row.n} | {row.n_events} | {ratio} | {p_text(row.p)} |")
        return "\n".join(lines)

    def _random(self) -> str:
        lines = [
            "| adjusted for | p | p among random sets | random sets with p < .05 |",
            "|---|---|---|---|",
        ]
        for row in _records(self.null_tests):
            share = f"{row.share_significant:.0%}" if row.n_sets else _UNKNOWN
            lines.append(
                f"| {row.adjusted} | {p_text(row.naive_p)} | {p_text(row.empirical_p)} | {share} |"
            )
        n = int(self.null_tests["n_sets"].max())
        return "\n".join(lines) + (
            f"\n\n{n:,} random sets, as large and as expressed; p of score tests. Of the two "
            f"p the larger counts."
            if n
            else ""
        )

    def _added(self) -> str:
        lines = [
            (
                "| measure | without the score | with it | gain, corrected (95 % CI) | likelihood "
                "ratio |"
            ),
            "|---|---|---|---|---|",
        ]
        for row in _records(self.added_value):
            gain = f"{row.delta:+.3f}, not corrected"
            if np.isfinite(row.delta_corrected):
                gain = f"{row.delta_corrected:+.3f} ({row.ci_low:+.3f} to {row.ci_high:+.3f})"
            before = f"{row.base_value:.3f} ({row.base})"
            lines.append(
                f"| {row.measure} | {before} | {row.full_value:.3f} | {gain} | {p_text(row.lr_p)} |"
            )
        return "\n".join(lines)

    def _doubts(self) -> str:
        found = [self._power(), *self._hazards(), *self._line(), *self.notes]
        return "\n".join(f"- {text}" for text in found)

    def _power(self) -> str:
        own, measure = self.power, self.params["measure"]
        word = "Underpowered" if own["underpowered"] else "Power"
        return (
            f"{word}: {own['n_events']} events show a {measure} of {own['ratio']:g} per SD "
            f"with {own['power']:.0%} probability; 80 % needs "
            f"{own['n_events_needed']:.0f} events, or a {measure} of {own['detectable_ratio']:.2f}."
        )

    def _hazards(self) -> list[str]:
        wrong = self.cox[self.cox["ph_p"] < 0.05].sort_values("ph_p").drop_duplicates("variable")
        said = [
            f"{row.variable} in '{row.model}' (p = {p_text(row.ph_p)})" for row in _records(wrong)
        ]
        return (
            [f"Hazards are not proportional: {'; '.join(said)}. Such a ratio is a mean over time."]
            if said
            else []
        )

    def _line(self) -> list[str]:
        p = self.linearity["p"]
        return (
            [
                (
                    f"The effect of the score is no line (spline, p = {p_text(p)}): a ratio per "
                    f"SD misses its form."
                )
            ]
            if p < 0.05
            else []
        )


def _records(table: pd.DataFrame) -> list[Any]:
    """Rows with names."""
    return list(table.itertuples())


def p_text(p: float) -> str:
    """Two digits, and no p that looks like zero."""
    if not np.isfinite(p):
        return _UNKNOWN
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}".replace("e-0", "e-")
