"""Where negative ends and positive begins: thresholds per batch, and the evidence that there are two populations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll.pp import _mixture
from scbert_cll.pp._protein import Levels

METHODS = ("gmm", "quantile", "manual")
_MIXTURE_COLUMNS = ("mean_neg", "mean_pos", "sd_neg", "sd_pos", "weight_pos")


@dataclass(frozen=True)
class Gate:
    """How to gate, and the name to use in a sentence."""

    marker: str
    method: str = "gmm"
    margin: float = 0.1
    quantiles: tuple[float, float] = (1 / 3, 2 / 3)
    thresholds: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        choice(self.method, METHODS, "method")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin must lie in [0, 0.5); found {self.margin}.")
        if len(self.quantiles) != 2 or not 0 < self.quantiles[0] < self.quantiles[1] < 1:
            raise ValueError(
                f"quantiles must be two rising numbers between 0 and 1; found {self.quantiles}."
            )
        if (self.method == "manual") != (self.thresholds is not None):
            raise ValueError(
                "thresholds= belongs to method='manual' and is needed there; "
                f"found method={self.method!r}, thresholds={self.thresholds}."
            )


@dataclass(frozen=True)
class Cuts:
    """Thresholds (batch × low, threshold, high), the evidence per batch, and the mixtures if they set the thresholds."""

    table: pd.DataFrame
    separation: pd.DataFrame
    mixtures: dict[str, _mixture.Mixture] = field(default_factory=dict)


def fit(gate: Gate, levels: Levels, batch: np.ndarray, gated: np.ndarray) -> Cuts:
    """Set the thresholds of every batch from its gated cells.

    Refuse where a mixture finds one population.
    """
    rows, cuts, mixtures = {}, {}, {}
    for name in sorted(set(batch[gated])):
        here = gated & (batch == name)
        mixture = _fit_mixture(levels.spread[here], levels.level[here], gate.seed)
        rows[name] = _evidence(levels, here, mixture)
        if gate.method == "gmm" and mixture is not None:
            mixtures[name] = mixture
            cuts[name] = [
                mixture.cut(p) for p in (gate.margin or 0.5, 0.5, 1 - (gate.margin or 0.5))
            ]
        elif gate.method == "quantile":
            low, high = np.quantile(levels.level[here], gate.quantiles)
            cuts[name] = [low, np.nan, high]
        elif gate.method == "manual":
            cuts[name] = _given(gate.thresholds, name)
    separation = pd.DataFrame.from_dict(rows, orient="index").rename_axis("batch")
    if gate.method == "gmm":
        _two_populations(separation, mixtures, gate)
    table = pd.DataFrame.from_dict(
        cuts, orient="index", columns=["low", "threshold", "high"]
    ).rename_axis("batch")
    if gate.method == "quantile":
        _not_tied(table, gate)
    return Cuts(table, separation, mixtures)


def _fit_mixture(spread: np.ndarray, level: np.ndarray, seed: int) -> _mixture.Mixture | None:
    few = level.size < _mixture.MIN_CELLS or np.ptp(level) == 0
    return None if few else _mixture.fit(spread, seed)


def _evidence(
    levels: Levels, here: np.ndarray, mixture: _mixture.Mixture | None
) -> dict[str, float]:
    if mixture is None:
        nothing = ("ashman_d", "valley", "bic_1", "bic_2", "count_gap", *_MIXTURE_COLUMNS)
        return {"n_cells": int(here.sum()), **dict.fromkeys(nothing, np.nan)}
    gap = np.nan
    if levels.counts is not None:
        gap = _mixture.count_gap(levels.counts[here], levels.spread[here] > mixture.cut(0.5))
    shape = (*mixture.means, *mixture.sds, mixture.weights[1])
    return {
        "n_cells": int(here.sum()),
        "ashman_d": mixture.ashman_d,
        "valley": mixture.valley,
        "bic_1": mixture.bic_1,
        "bic_2": mixture.bic_2,
        "count_gap": gap,
        **dict(zip(_MIXTURE_COLUMNS, map(float, shape), strict=True)),
    }


def _two_populations(
    separation: pd.DataFrame, mixtures: Mapping[str, _mixture.Mixture], gate: Gate
) -> None:
    """Refuse to make labels up where a batch has one population."""
    why = {
        b: _one_population(separation.loc[b], mixtures.get(b), gate.margin)
        for b in separation.index
    }
    bad = "; ".join(
        f"batch {b!r} ({separation.loc[b, 'n_cells']:.0f} cells): {', '.join(r)}"
        for b, r in why.items()
        if r
    )
    if bad:
        raise ValueError(
            f"{gate.marker!r} does not fall into two populations, so no labels were made up. "
            f"{bad}. Alternatives: "
            "method='quantile' (outer parts of the cells), method='manual' with thresholds=, "
            "another normalize=, or cells= to "
            "gate other cells."
        )


def _one_population(row: pd.Series, mixture: _mixture.Mixture | None, margin: float) -> list[str]:
    """What speaks against two populations, with the numbers; Ashman's D is always among them."""
    if mixture is None:
        return [f"fewer than {_mixture.MIN_CELLS} cells, or all at one level"]
    reasons = [] if mixture.ashman_d >= _mixture.MIN_D else [f"less than {_mixture.MIN_D:g}"]
    if mixture.bic_2 >= mixture.bic_1:
        reasons += [f"BIC {mixture.bic_2:.0f} with two components, {mixture.bic_1:.0f} with one"]
    if mixture.valley > _mixture.MAX_VALLEY:
        reasons += [
            (
                f"no dip between the two means (valley {mixture.valley:.2f}, at most "
                f"{_mixture.MAX_VALLEY:g})"
            )
        ]
    if row["count_gap"] < _mixture.MIN_COUNT_GAP:
        reasons += [
            (
                f"medians {row['count_gap']:.2f} sd of counting noise apart (at least "
                f"{_mixture.MIN_COUNT_GAP:g})"
            )
        ]
    if not mixture.means[0] < mixture.cut(0.5) < mixture.means[1]:
        reasons += ["no threshold between the two means"]
    elif margin and not np.isfinite([mixture.cut(margin), mixture.cut(1 - margin)]).all():
        reasons += [f"overlap so wide that margin={margin:g} is out of reach"]
    return [f"Ashman's D = {mixture.ashman_d:.2f}", *reasons] if reasons else []


def _given(thresholds: Any, batch: str) -> list[float]:
    """Low, threshold, high from the user's number or pair.

    The middle of a pair serves as its threshold.
    """
    if isinstance(thresholds, Mapping):
        key_in(batch, thresholds, "thresholds", "Give one for every batch.")
        thresholds = thresholds[batch]
    pair = np.atleast_1d(np.asarray(thresholds, dtype=float))
    if pair.shape not in ((1,), (2,)) or not np.isfinite(pair).all() or pair[0] > pair[-1]:
        raise ValueError(
            f"thresholds must be one finite number or (low, high), low <= high; found "
            f"{thresholds} for batch {batch!r}."
        )
    return [pair[0], pair.mean(), pair[-1]]


def _not_tied(table: pd.DataFrame, gate: Gate) -> None:
    tied = table.index[table["low"] == table["high"]]
    if len(tied):
        raise ValueError(
            f"Both quantiles {gate.quantiles} of {gate.marker!r} fall on the same level in "
            f"batch {listed(tied)}: too "
            "many cells are tied, e.g. at zero. Use quantiles= further apart, or "
            "method='manual' with thresholds=."
        )
