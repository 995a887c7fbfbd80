"""Where negative ends and positive begins, what speaks for two, and what that says of donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.mixture import GaussianMixture

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._protein.cite_seq import Levels

# Ashman, Bird & Zepf 1994: two components are cleanly separated from D = 2 on.
MIN_D = 2.0
# That is where two equal components just become two modes. Unequal ones, which also fit one skewed
# population well, must show the dip themselves: density between the means over that at the lower of
# the two means.
MAX_VALLEY = 0.9
# Medians of the two sides, in standard deviations of Poisson counting noise. Below this, "positive"
# means a count or two.
MIN_COUNT_GAP = 3.0
MIN_CELLS = 20

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
    # if they set the thresholds
    mixtures: dict[str, Mixture] = field(default_factory=dict)


def fit(gate: Gate, levels: Levels) -> Cuts:
    """Thresholds of every batch from its gated cells; refuses a mixture with one population."""
    rows, cuts, mixtures, bad = {}, {}, {}, []
    for name in sorted(set(levels.batch[levels.gated])):
        here = levels.gated & (levels.batch == name)
        mixture, n = fit_cells(levels, here, gate.seed), int(here.sum())
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
            mixtures[name] = mixture
            margin = gate.margin or 0.5
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


def _evidence(mixture: Mixture | None) -> dict[str, float]:
    if mixture is None:
        return dict.fromkeys((*_MEASURES, *_SHAPE), np.nan)
    shape = map(float, (*mixture.means, *mixture.sds, mixture.weights[1]))
    measures = {name: getattr(mixture, name) for name in _MEASURES}
    return measures | dict(zip(_SHAPE, shape, strict=True))


def _one_population(mixture: Mixture | None, margin: float) -> list[str]:
    """What speaks against two populations, with the numbers; Ashman's D is always among them."""
    if mixture is None:
        return [f"fewer than {MIN_CELLS} cells, or all at one level"]
    d, valley, gap = mixture.ashman_d, mixture.valley, mixture.count_gap
    one, two = mixture.bic_1, mixture.bic_2
    has_cut = mixture.means[0] < mixture.cut(0.5) < mixture.means[1]
    band = [mixture.cut(margin or 0.5), mixture.cut(1 - (margin or 0.5))]
    has_no_dip, is_noise = valley > MAX_VALLEY, gap < MIN_COUNT_GAP
    wide = has_cut and not np.isfinite(band).all()
    reasons = {
        f"less than {MIN_D:g}": d < MIN_D,
        f"BIC {two:.0f} with two components, {one:.0f} with one": two >= one,
        f"no dip between the two means (valley {valley:.2f}, at most {MAX_VALLEY:g})": has_no_dip,
        f"medians {gap:.2f} sd of counting noise apart (at least {MIN_COUNT_GAP:g})": is_noise,
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
    table["clinical_class"] = pd.Categorical.from_codes(code, classes)
    table["cd49d_call"] = pd.Categorical.from_codes(np.sign(code), calls)
    return table


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
    mixture = fit_mixture(spread, seed=0)
    middle = np.median(threshold)  # of the donor's batches
    sides = np.isnan(middle) or mixture.means[0] < middle < mixture.means[1]
    two = mixture.separable and mixture.weights.min() >= _BIMODAL_WEIGHT and sides
    return {"ashman_d": mixture.ashman_d, "bimodal": bool(two)}


# ---- one or two populations: a Gaussian mixture in one dimension, its monotone posterior


@dataclass(frozen=True)
class Mixture:
    """Two components, the lower one first, and the evidence for two against one."""

    means: np.ndarray  # (2,)
    sds: np.ndarray  # (2,)
    weights: np.ndarray  # (2,)
    bic_1: float
    bic_2: float
    count_gap: float = np.nan  # see `count_gap`; NaN where counts are not known

    @property
    def ashman_d(self) -> float:
        """Distance of the means over the root mean square of the two standard deviations."""
        return float(np.sqrt(2) * (self.means[1] - self.means[0]) / np.hypot(*self.sds))

    @property
    def valley(self) -> float:
        """Lowest density between the means over the lower one at the means: 1 without a dip."""
        x = np.linspace(self.means[0], self.means[1], 200)[:, None]
        z = (x - self.means) / self.sds
        density = (self.weights / self.sds * np.exp(-0.5 * z**2)).sum(axis=1)
        return float(density.min() / min(density[0], density[-1]))

    @property
    def separable(self) -> bool:
        """Two components by BIC and Ashman's D, with a dip and the threshold between the means."""
        between = self.means[0] < self.cut(0.5) < self.means[1]
        apart = self.ashman_d >= MIN_D and self.valley <= MAX_VALLEY
        return bool(self.bic_2 < self.bic_1 and apart and between)

    @property
    def _log_odds(self) -> tuple[float, float, float]:
        """Coefficients a, b, c of the log-odds of the upper component, a·x² + b·x + c."""
        (m1, m2), (v1, v2), (w1, w2) = self.means, self.sds**2, self.weights
        a = 0.5 / v1 - 0.5 / v2
        b = m2 / v2 - m1 / v1
        c = np.log(w2 / w1) + 0.5 * np.log(v1 / v2) + 0.5 * (m1**2 / v1 - m2**2 / v2)
        return float(a), float(b), float(c)

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Probability of the upper component, never falling as the level rises.

        With unequal variances the log-odds are a parabola: the wider component wins both tails. Its
        turning point always lies outside the two means; from there outwards the value is held.
        """
        a, b, c = self._log_odds
        turn = -b / (2 * a) if a else -np.inf
        x = np.maximum(x, turn) if a >= 0 else np.minimum(x, turn)
        return np.asarray(expit((a * x + b) * x + c))

    def cut(self, p: float) -> float:
        """Level at which the posterior is `p` (±inf where it is above or below `p` everywhere)."""
        a, b, c = self._log_odds
        c -= float(logit(p))
        inside = b * b - 4 * a * c
        if inside < 0:
            return -np.inf if a > 0 else np.inf
        root = np.sqrt(inside)  # the slope of the log-odds there: the rising branch
        return float(-2 * c / (b + root) if b > 0 else (root - b) / (2 * a))


def fit_mixture(x: np.ndarray, seed: int) -> Mixture:
    """Fit one and two components; sorted first, so that the order of the cells cannot matter."""
    column = np.sort(np.asarray(x, dtype=np.float64))[:, None]
    one = GaussianMixture(1, random_state=seed).fit(column)
    starts = {"n_init": 5, "init_params": "k-means++", "max_iter": 1000}
    two = GaussianMixture(2, random_state=seed, **starts).fit(column)
    order = np.argsort(two.means_.ravel())
    means, sds = two.means_.ravel()[order], np.sqrt(two.covariances_.ravel()[order])
    bic_1, bic_2 = float(one.bic(column)), float(two.bic(column))
    return Mixture(means, sds, two.weights_[order], bic_1, bic_2)


def fit_cells(levels: Levels, cells: np.ndarray, seed: int) -> Mixture | None:
    """A mixture of some cells; None where they are few, or all at one level."""
    if cells.sum() < MIN_CELLS or np.ptp(levels.level[cells]) == 0:
        return None
    mixture = fit_mixture(levels.spread[cells], seed)
    if levels.counts is None:
        return mixture
    gap = count_gap(levels.counts[cells], levels.spread[cells] > mixture.cut(0.5))
    return replace(mixture, count_gap=gap)


def count_gap(counts: np.ndarray, above: np.ndarray) -> float:
    """Distance of the median counts above and below a threshold.

    In standard deviations of Poisson noise (Anscombe).
    """
    if above.all() or not above.any():
        return 0.0
    low, high = np.median(counts[~above]), np.median(counts[above])
    return float(2 * (np.sqrt(high + 0.375) - np.sqrt(low + 0.375)))
