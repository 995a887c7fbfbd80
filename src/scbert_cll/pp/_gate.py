"""Where negative ends and positive begins, what speaks for two, and what that says of donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._protein.cite_seq import Levels
from scbert_cll.pp import _mixture

METHODS = ("gmm", "quantile", "manual")
_MEASURES = ("ashman_d", "valley", "bic_1", "bic_2", "count_gap")
_SHAPE = ("mean_neg", "mean_pos", "sd_neg", "sd_pos", "weight_pos")


# A second population of a donor counts as one from this share of its cells, and is looked for from
# this many cells.
_BIMODAL_WEIGHT, _BIMODAL_CELLS = 0.05, 50
_CLINICAL_PCT = 30.0


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
        borders = [0, *self.quantiles, 1]
        if len(borders) != 4 or not np.all(np.diff(borders) > 0):
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
    """What parts the cells of each batch."""

    table: pd.DataFrame  # batch × low, threshold, high
    separation: pd.DataFrame  # batch × evidence
    mixtures: dict[str, _mixture.Mixture] = field(
        default_factory=dict
    )  # if they set the thresholds


def fit(gate: Gate, levels: Levels) -> Cuts:
    """Thresholds of every batch from its gated cells; refuses a mixture with one population."""
    rows, cuts, mixtures, bad = {}, {}, {}, []
    for name in sorted(set(levels.batch[levels.gated])):
        here = levels.gated & (levels.batch == name)
        mixture, n = _mixture.fit_cells(levels, here, gate.seed), int(here.sum())
        rows[name] = {"n_cells": n, **_evidence(mixture)}
        if gate.method == "quantile":
            low, high = np.quantile(levels.level[here], gate.quantiles)
            cuts[name] = [low, np.nan, high]
        elif gate.method == "manual":
            cuts[name] = _given(gate.thresholds, name)
        else:
            reasons = _one_population(mixture, gate.margin)
            if mixture is None or reasons:
                bad.append(f"batch {name!r} ({n} cells): {', '.join(reasons)}")
                continue
            mixtures[name], margin = mixture, gate.margin or 0.5
            cuts[name] = [mixture.cut(p) for p in (margin, 0.5, 1 - margin)]
    if bad:
        raise ValueError(
            f"{gate.marker!r} does not fall into two populations, so no labels were made up. "
            f"{'; '.join(bad)}. Alternatives: method='quantile' (outer parts of the cells), "
            "method='manual' with thresholds=, another normalize=, or cells= to gate other cells."
        )
    separation = pd.DataFrame.from_dict(rows, orient="index").rename_axis("batch")
    table = pd.DataFrame(cuts, index=["low", "threshold", "high"]).T
    table = table.rename_axis("batch")
    tied = table.index[table["low"] == table["high"]]
    if gate.method == "quantile" and len(tied):
        raise ValueError(
            f"Both quantiles {gate.quantiles} of {gate.marker!r} fall on the same level in batch "
            f"{listed(tied)}: too many cells are tied, e.g. at zero. Use quantiles= further apart, "
            "or method='manual' with thresholds=."
        )
    return Cuts(table, separation, mixtures)


def _evidence(mixture: _mixture.Mixture | None) -> dict[str, float]:
    if mixture is None:
        return dict.fromkeys((*_MEASURES, *_SHAPE), np.nan)
    shape = map(float, (*mixture.means, *mixture.sds, mixture.weights[1]))
    measures = {name: getattr(mixture, name) for name in _MEASURES}
    return measures | dict(zip(_SHAPE, shape, strict=True))


def _one_population(mixture: _mixture.Mixture | None, margin: float) -> list[str]:
    """What speaks against two populations, with the numbers; Ashman's D is always among them."""
    if mixture is None:
        return [f"fewer than {_mixture.MIN_CELLS} cells, or all at one level"]
    d, valley, gap = mixture.ashman_d, mixture.valley, mixture.count_gap
    one, two = mixture.bic_1, mixture.bic_2
    min_d, most, least = _mixture.MIN_D, _mixture.MAX_VALLEY, _mixture.MIN_COUNT_GAP
    has_cut = mixture.means[0] < mixture.cut(0.5) < mixture.means[1]
    band = [mixture.cut(margin or 0.5), mixture.cut(1 - (margin or 0.5))]
    has_no_dip, is_noise = valley > most, gap < least
    wide = has_cut and not np.isfinite(band).all()
    reasons = {
        f"less than {min_d:g}": d < min_d,
        f"BIC {two:.0f} with two components, {one:.0f} with one": two >= one,
        f"no dip between the two means (valley {valley:.2f}, at most {most:g})": has_no_dip,
        f"medians {gap:.2f} sd of counting noise apart (at least {least:g})": is_noise,
        "no threshold between the two means": not has_cut,
        f"overlap so wide that margin={margin:g} is out of reach": wide,
    }
    why = [reason for reason, is_so in reasons.items() if is_so]
    return [f"Ashman's D = {d:.2f}", *why] if why else []


def _given(thresholds: Any, batch: str) -> list[float]:
    """Low, threshold (their middle) and high from the user's number or pair."""
    if isinstance(thresholds, Mapping):
        key_in(batch, thresholds, "thresholds", "Give one for every batch.")
        thresholds = thresholds[batch]
    pair = np.atleast_1d(np.asarray(thresholds, dtype=float))
    is_pair = pair.shape in ((1,), (2,)) and np.isfinite(pair).all()
    if not is_pair or pair[0] > pair[-1]:
        raise ValueError(
            f"thresholds must be one finite number or (low, high), low <= high; found "
            f"{thresholds} for batch {batch!r}."
        )
    return [pair[0], pair.mean(), pair[-1]]


def donor_table(
    levels: Levels, donor_of: pd.Series, label: pd.Series, cuts: pd.DataFrame
) -> pd.DataFrame:
    """One row per donor with gated cells."""
    donor = donor_of.to_numpy(dtype=object)
    threshold = cuts["threshold"].reindex(levels.batch).to_numpy()  # NaN: has none
    rows = {}
    for name in sorted(set(donor[levels.gated])):
        here = levels.gated & (donor == name)
        codes = label[here].cat.codes
        rows[name] = {
            "n_cells": int(here.sum()),
            "n_neg": int((codes == 0).sum()),
            "n_pos": int((codes == 1).sum()),
            **_percentage(levels.level[here] - threshold[here]),
            **_bimodal(levels.spread[here], threshold[here]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("donor")
    pct, bimodal = table["pct_positive"], table["bimodal"]
    is_low = pct < _CLINICAL_PCT
    conditions = [pct.isna(), bimodal & is_low, bimodal, is_low]
    code = np.select(conditions, [-1, 1, 2, 0], 3)  # -1: no percentage
    classes, calls = pd.Index(_keys.DONOR_CLASSES), pd.Index(["negative", "positive"])
    return table.assign(
        clinical_class=pd.Categorical.from_codes(code, classes),
        cd49d_call=pd.Categorical.from_codes(np.sign(code), calls),
    )


def _percentage(above: np.ndarray) -> dict[str, float]:
    if np.isnan(above).any():
        return dict.fromkeys(("pct_positive", "ci_low", "ci_high"), np.nan)
    n = int((above >= 0).sum())
    ci = binomtest(n, above.size).proportion_ci(method="wilson")
    pct = 100 * n / above.size
    return {"pct_positive": pct, "ci_low": 100 * ci.low, "ci_high": 100 * ci.high}


def _bimodal(spread: np.ndarray, threshold: np.ndarray) -> dict[str, float | bool]:
    """Whether a donor's own cells form two populations, on two sides of any threshold."""
    if spread.size < _BIMODAL_CELLS:
        return {"ashman_d": np.nan, "bimodal": False}
    mixture = _mixture.fit(spread, seed=0)
    middle = np.median(threshold)  # of the donor's batches
    sides = np.isnan(middle) or mixture.means[0] < middle < mixture.means[1]
    two = mixture.separable and mixture.weights.min() >= _BIMODAL_WEIGHT and sides
    return {"ashman_d": mixture.ashman_d, "bimodal": bool(two)}
