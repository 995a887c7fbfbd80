"""How certain a metric is: what is resampled, and limits from the values of the draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, t

from scbert_cll._evaluation.metrics import weighted
from scbert_cll._evaluation.ranks import ratio

OVER_DONORS, OVER_CELLS = "bootstrap over donors", "bootstrap over cells"
RANGE, NONE = "range over donors", "none"
FEWEST = 5  # donors for a bootstrap over donors
_LEVEL = np.array([0.025, 0.975])
_NEAR = 1e-5  # as close to perfect as the logit scale resolves
_POOLED = "all donors together are outside the range of single donors, which is widened to them"
_EDGE = "draws at the end of the scale: percentiles, or Wilson's limits where all of them are"
_BLOCK = 4_000_000  # weights at a time


type Ends = tuple[float, float]  # smallest and largest possible value


class Resampling(NamedTuple):
    """What is resampled and what each draw took.

    For a range, each "draw" is one donor by itself.
    """

    interval: str
    unit: np.ndarray  # (n,) unit of each cell
    weights: np.ndarray  # (draws, units): donors, or cells
    repeats: np.ndarray  # (draws, repeats)
    note: str
    # donors, or cells of the smallest class: of how many nothing went wrong where a metric is
    # perfect
    n_fewest: int

    @property
    def n_units(self) -> int:
        """Donors, or cells."""
        return int(self.weights.shape[1])


class Limits(NamedTuple):
    """An interval, what it is, and in how many draws the metric is undefined."""

    low: float
    high: float
    interval: str
    n_undefined: int
    note: str
    p: float = np.nan


def resample(
    y: np.ndarray, donors: np.ndarray | None, n_repeats: int, n_draws: int, seed: int
) -> Resampling:
    """Draws of donors, a range of two to four, or draws of cells where there is one donor."""
    rng = np.random.default_rng(seed)
    donors = np.zeros(len(y)) if donors is None else donors
    names, unit = np.unique(donors, return_inverse=True)
    shares = np.full(n_repeats, 1 / n_repeats)
    repeats: np.ndarray = rng.multinomial(n_repeats, shares, n_draws)
    about_one = "one repeat: what differs between seeds is not in the interval"
    one = about_one if n_repeats == 1 else ""
    if (drawn := over_donors(names.size, n_draws, rng)) is not None:
        if drawn.interval == RANGE:
            return drawn._replace(unit=unit, repeats=np.ones((names.size, n_repeats)))
        return drawn._replace(unit=unit, repeats=repeats, note=one)
    note = joined("speaks of other cells of this donor, not of other patients", one)
    weights = _draw_cells(y, n_draws, rng)
    fewest = int(np.unique(y, return_counts=True)[1].min())
    return Resampling(OVER_CELLS, np.arange(len(y)), weights, repeats, note, fewest)


def over_donors(n: int, n_draws: int, rng: np.random.Generator) -> Resampling | None:
    """Draws of donors, one row of cells each.

    A range where there are two to four, and nothing of a single one.
    """
    if n < 2:
        return None
    unit, once = np.arange(n), np.ones((n_draws, 1))
    if n >= FEWEST:
        weights: np.ndarray = rng.multinomial(n, np.full(n, 1 / n), n_draws)
        return Resampling(OVER_DONORS, unit, weights, once, "", n)
    note = f"{n} donors, too few for a bootstrap: lowest and highest value of single donors"
    return Resampling(RANGE, unit, np.eye(n), once[:n], note, n)


def _draw_cells(y: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Number of draws of each cell, with replacement among those of its class (draws, cells)."""
    weights = np.zeros((n_draws, len(y)), dtype=np.uint16)
    for code in np.unique(y):
        at = np.flatnonzero(y == code)
        for row in weights:
            row[at] = np.bincount(rng.integers(0, at.size, at.size), minlength=at.size)
    return weights


def of_draws(
    names: Sequence[str], y: np.ndarray, proba: np.ndarray, drawn: Resampling
) -> dict[str, np.ndarray]:
    """Values of each metric in each draw (draws,), averaged over the repeats that the draw took.

    NaN where none of them has a value.
    """
    values = np.full((len(proba), len(names), len(drawn.weights)), np.nan)
    for repeat in np.flatnonzero(~np.isnan(proba).any(axis=(1, 2))):
        blocks = np.array_split(drawn.weights, -(-drawn.weights.size // _BLOCK))
        p, unit = proba[repeat], drawn.unit
        parts = [weighted(names, y, p, unit, block.astype(float)) for block in blocks]
        values[repeat] = np.concatenate(parts, axis=1)
    taken = drawn.repeats.T[:, None] * np.isfinite(values)
    mean = ratio((taken * np.nan_to_num(values)).sum(0), taken.sum(0))
    return dict(zip(names, mean, strict=True))


def interval_of(estimate: float, draws: np.ndarray, drawn: Resampling, ends: Ends | None) -> Limits:
    """Interval of an estimate, which it always contains; of a difference where there are no ends.

    A range over donors is widened to the value of all donors together where that is outside of it:
    a metric of pooled cells is no mean of the donors' metrics.
    """
    defined = draws[np.isfinite(draws)]
    n_undefined, n = len(draws) - len(defined), drawn.n_units
    if not np.isfinite(estimate):
        return Limits(np.nan, np.nan, NONE, n_undefined, "")
    what = "donors" if drawn.interval == RANGE else "draws"
    note = f"undefined in {n_undefined} of {len(draws)} {what}" if n_undefined else ""
    if len(defined) < max(len(draws) / 2, 2):
        return Limits(np.nan, np.nan, NONE, n_undefined, note)
    p = np.nan
    if drawn.interval == RANGE:
        low, high = defined.min(), defined.max()
        note = joined(note, "" if low <= estimate <= high else _POOLED)
    elif ends is None:
        low, high = difference_limits(estimate, defined, n)
        p = p_value(estimate, defined, n)
    else:
        at_an_end = limits_at_an_end(estimate, defined, n, drawn.n_fewest, ends)
        low, high = at_an_end or limits(estimate, defined, n, ends)
        note = joined(note, _EDGE if at_an_end else "")
    low, high = float(min(low, estimate)), float(max(high, estimate))
    return Limits(low, high, drawn.interval, n_undefined, note, p)


def joined(*notes: str) -> str:
    """Each note once, where there is one."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def limits_at_an_end(
    estimate: float, draws: np.ndarray, n_units: int, n_fewest: int, ends: Ends
) -> tuple[float, float] | None:
    """Limits where draws are at the smallest or largest possible value, whose logit says nothing.

    None where none is.

    Percentiles, moved away from the estimate as few units ask for, within the ends. Where every
    draw is perfect they would say that the truth is, too: then Wilson's limit of a share of none
    among so many donors, or cells of the smallest class.
    """
    width = ends[1] - ends[0]
    share, estimated = (draws - ends[0]) / width, (estimate - ends[0]) / width
    if not ((share <= _NEAR) | (share >= 1 - _NEAR)).any():
        return None
    if np.ptp(share) == 0:
        wilson = binomtest(round(float(share[0]) * n_fewest), n_fewest)
        low, high = wilson.proportion_ci(method="wilson")
    else:
        quantiles = np.quantile(_widened(estimated, share, n_units), _LEVEL)
        low, high = np.clip(quantiles, 0, 1)
    return float(ends[0] + width * low), float(ends[0] + width * high)


def limits(estimate: float, draws: np.ndarray, n_units: int, ends: Ends) -> np.ndarray:
    """Lower and upper 95 % limit of a metric: Student's t on the logit scale of the draws.

    Parameters
    ----------
    estimate
        Value of the data.
    draws
        Values of the draws in which there is one.
    n_units
        Donors (or cells).
    ends
        Smallest and largest possible value, between which the logit is taken; so the limits are
        never outside.

    Notes
    -----
    Chosen by simulation: patients with a random share of positives, shift and separation of the
    scores, about 150 cells each, 1,000 studies of 1,000 draws, the share of 95 % intervals that
    hold the population's value (standard error 0.007). Given for 5 / 10 / 20 donors; `middling` has
    AUROC 0.78, `strong` 0.96, `uneven` 0.81 with many donors nearly all positive or all negative.

    ======== ========== ================== ================== ================== ==================
    metric   population percentile         BCa                t                  t, logit scale
    ======== ========== ================== ================== ================== ==================
    macro-F1 middling   .846 / .903 / .917 .817 / .876 / .885 .955 / .952 / .935 .946 / .951 / .937
    macro-F1 strong     .801 / .875 / .887 .780 / .858 / .880 .899 / .898 / .897 .936 / .935 / .906
    macro-F1 uneven     .858 / .916 / .920 .820 / .880 / .902 .954 / .949 / .921 .958 / .952 / .931
    AUROC    middling   .836 / .888 / .903 .786 / .856 / .887 .933 / .927 / .915 .945 / .936 / .934
    AUROC    strong     .681 / .767 / .828 .685 / .789 / .848 .780 / .800 / .836 .923 / .899 / .889
    AUROC    uneven     .790 / .870 / .881 .755 / .848 / .877 .889 / .884 / .893 .941 / .935 / .912
    ======== ========== ================== ================== ================== ==================

    So limits near a perfect value are still somewhat too narrow (about 90 % instead of 95). The
    donors are resampled, not the training: what another set of training donors would have changed
    in the models is not in the interval. Run ``python tests/_evaluation/test_bootstrap.py`` for the
    numbers.
    """
    if np.ptp(draws) == 0:
        return np.array([estimate, estimate])
    centre = _to_line(np.asarray(estimate), ends)
    spread = _to_line(draws, ends).std(ddof=1)
    line = centre + np.array([-1, 1]) * norm.ppf(_LEVEL[1]) * widening(n_units) * spread
    return np.asarray(ends[0] + (ends[1] - ends[0]) * expit(line))


def difference_limits(difference: float, draws: np.ndarray, n_units: int) -> np.ndarray:
    """Lower and upper 95 % limit of a paired difference: percentiles, widened for few units.

    Notes
    -----
    Coverage in the simulation of `limits`, 5 / 10 / 20 donors: macro-F1 0.951 / 0.952 / 0.948
    (middling), 0.917 / 0.940 / 0.915 (strong), 0.964 / 0.940 / 0.937 (uneven); AUROC 0.961 /
    0.955 / 0.949, 0.803 / 0.839 / 0.870, 0.960 / 0.935 / 0.923. Plain percentiles: 0.848 / 0.910 /
    0.930 and 0.872 / 0.910 / 0.927 (middling). Student's t does no better (0.964 / 0.956 / 0.943
    and 0.953 / 0.932 / 0.937), and its p would not be a share of draws. Near a perfect AUROC, p is
    too small and the limits too narrow.
    """
    return np.asarray(np.quantile(_widened(difference, draws, n_units), _LEVEL))


def p_value(difference: float, draws: np.ndarray, n_units: int) -> float:
    """Two-sided, by the share of draws on the other side of 0, which are widened like the limits.

    At least 1 / (draws + 1).
    """
    moved = _widened(difference, draws, n_units)
    share = 2 * min((moved <= 0).mean(), (moved >= 0).mean())
    return float(np.clip(share, 1 / (len(draws) + 1), 1))


def widening(n_units: int) -> float:
    """Factor on a bootstrap's spread: Student's t instead of the normal, n - 1 instead of n."""
    quantiles = t.ppf(_LEVEL[1], n_units - 1) / norm.ppf(_LEVEL[1])
    return float(np.sqrt(n_units / (n_units - 1)) * quantiles)


def _widened(difference: float, draws: np.ndarray, n_units: int) -> np.ndarray:
    return difference + widening(n_units) * (draws - difference)


def _to_line(x: np.ndarray, ends: Ends) -> np.ndarray:
    """Logit between the ends.

    The ends themselves are far out but finite, or one perfect draw would be all the spread.
    """
    share = (x - ends[0]) / (ends[1] - ends[0])
    return np.asarray(logit(np.clip(share, _NEAR, 1 - _NEAR)))
