"""How certain a metric is: what is drawn, and limits from what the draws say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, t

from scbert_cll._evaluation.weighted import weighted

OVER_DONORS, OVER_CELLS, RANGE, NONE = (
    "bootstrap over donors",
    "bootstrap over cells",
    "range over donors",
    "none",
)
_FEWEST = 5  # donors for a bootstrap
_LEVEL = np.array([0.025, 0.975])
_NEAR = 1e-5  # as close to perfect as the logit scale resolves
_POOLED = "all donors together are outside the range of single donors, which is widened to them"
_EDGE = "draws at the end of the scale: percentiles, or Wilson's limits where all of them are"
_BLOCK = 4_000_000  # weights at a time


class Plan(NamedTuple):
    """What is resampled and what each draw took.

    For a range, each "draw" is one donor by itself.
    """

    interval: str
    unit: np.ndarray  # (n,) unit of each cell
    weights: np.ndarray  # (draws, units)
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
    """An interval, what it is, and of how many draws it knows nothing."""

    low: float
    high: float
    interval: str
    n_undefined: int
    note: str
    p: float = np.nan


def plan_draws(
    y: np.ndarray, donors: np.ndarray | None, n_repeats: int, n_draws: int, seed: int
) -> Plan:
    """Choose what is resampled by the number of donors, and draw."""
    rng = np.random.default_rng(seed)
    names, unit = np.unique(np.zeros(len(y)) if donors is None else donors, return_inverse=True)
    n = names.size
    repeats: np.ndarray = rng.multinomial(n_repeats, np.full(n_repeats, 1 / n_repeats), n_draws)
    one = "" if n_repeats > 1 else "one repeat: what differs between seeds is not in the interval"
    if (plan := over_donors(n, n_draws, rng)) is not None:
        few = plan.interval == RANGE
        repeats = np.ones((n, n_repeats)) if few else repeats
        return plan._replace(unit=unit, repeats=repeats, note=plan.note if few else one)
    note = "speaks of other cells of this donor, not of other patients"
    weights = _draw_cells(y, n_draws, rng)
    fewest = int(np.unique(y, return_counts=True)[1].min())
    return Plan(
        OVER_CELLS,
        np.arange(len(y)),
        weights,
        repeats,
        "; ".join(filter(None, [note, one])),
        fewest,
    )


def over_donors(n: int, n_draws: int, rng: np.random.Generator) -> Plan | None:
    """Draws of donors, one row of cells each.

    A range where there are two to four, and nothing of a single one.
    """
    if n < 2:
        return None
    unit: np.ndarray = np.arange(n)
    once: np.ndarray = np.ones((n_draws, 1))
    if n >= _FEWEST:
        return Plan(OVER_DONORS, unit, rng.multinomial(n, np.full(n, 1 / n), n_draws), once, "", n)
    note = f"{n} donors, too few for a bootstrap: lowest and highest value of single donors"
    return Plan(RANGE, unit, np.eye(n), once[:n], note, n)


def _draw_cells(y: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each cell is drawn, with replacement among the cells of its class (draws, cells)."""
    weights = np.zeros((n_draws, len(y)), dtype=np.uint16)
    for code in np.unique(y):
        at = np.flatnonzero(y == code)
        for row in weights:
            row[at] = np.bincount(rng.integers(0, at.size, at.size), minlength=at.size)
    return weights


def draw(names: Sequence[str], y: np.ndarray, proba: np.ndarray, plan: Plan) -> np.ndarray:
    """Metrics of each draw, averaged over the repeats it took (metrics, draws).

    NaN where none of them has a value.
    """
    found = np.full((len(proba), len(names), len(plan.weights)), np.nan)
    for repeat in np.flatnonzero(~np.isnan(proba).any(axis=(1, 2))):
        blocks = np.array_split(plan.weights, -(-plan.weights.size // _BLOCK))
        values = [
            weighted(names, y, proba[repeat], plan.unit, block.astype(float)) for block in blocks
        ]
        found[repeat] = np.concatenate(values, axis=1)
    taken = plan.repeats.T[:, None] * np.isfinite(found)
    n = taken.sum(0)
    return np.asarray(
        np.divide(
            (taken * np.nan_to_num(found)).sum(0), n, out=np.full(n.shape, np.nan), where=n > 0
        )
    )


def interval_of(
    estimate: float, draws: np.ndarray, plan: Plan, ends: tuple[float, float] | None
) -> Limits:
    """Interval of an estimate, which it always contains; of a difference where there are no ends.

    A range over donors is widened to the value of all donors together where that is outside of it:
    a metric of pooled cells is no mean of the donors' metrics.
    """
    there = draws[np.isfinite(draws)]
    n_undefined = len(draws) - len(there)
    if not np.isfinite(estimate):
        return Limits(np.nan, np.nan, NONE, n_undefined, "")
    what = "donors" if plan.interval == RANGE else "draws"
    gone = f"undefined in {n_undefined} of {len(draws)} {what}" if n_undefined else ""
    if len(there) < max(len(draws) / 2, 2):
        return Limits(np.nan, np.nan, NONE, n_undefined, gone)
    if plan.interval == RANGE:
        low, high = _around(estimate, there.min(), there.max())
        wider = _POOLED if (low, high) != (there.min(), there.max()) else ""
        return Limits(low, high, RANGE, n_undefined, "; ".join(filter(None, [gone, wider])))
    if ends is None:
        low, high = _around(estimate, *difference_limits(estimate, there, plan.n_units))
        return Limits(
            low, high, plan.interval, n_undefined, gone, p_value(estimate, there, plan.n_units)
        )
    at_an_end = limits_at_an_end(estimate, there, plan.n_units, plan.n_fewest, ends)
    low, high = limits(estimate, there, plan.n_units, ends) if at_an_end is None else at_an_end
    return Limits(
        low,
        high,
        plan.interval,
        n_undefined,
        "; ".join(filter(None, [gone, _EDGE * (at_an_end is not None)])),
    )


def _around(estimate: float, low: float, high: float) -> tuple[float, float]:
    return float(min(low, estimate)), float(max(high, estimate))


def limits_at_an_end(
    estimate: float, draws: np.ndarray, n_units: int, n_fewest: int, ends: tuple[float, float]
) -> tuple[float, float] | None:
    """Limits where draws are at the smallest or largest possible value, whose logit says nothing.

    None where none is.

    Percentiles, moved away from the estimate as few units ask for, within the ends. Where every
    draw is perfect they would say that the truth is, too: then Wilson's limit of a share of none
    among so many donors, or cells of the smallest class.
    """
    share, estimated = ((np.asarray(x) - ends[0]) / (ends[1] - ends[0]) for x in (draws, estimate))
    if not ((share <= _NEAR) | (share >= 1 - _NEAR)).any():
        return None
    if np.ptp(share) == 0:
        wilson = binomtest(round(float(share[0]) * n_fewest), n_fewest).proportion_ci(
            method="wilson"
        )
        low, high = float(wilson.low), float(wilson.high)
    else:
        low, high = np.clip(np.quantile(_widened(float(estimated), share, n_units), _LEVEL), 0, 1)
    return _around(
        estimate, ends[0] + (ends[1] - ends[0]) * low, ends[0] + (ends[1] - ends[0]) * high
    )


def limits(
    estimate: float, draws: np.ndarray, n_units: int, ends: tuple[float, float]
) -> np.ndarray:
    """Lower and upper 95 % limit of a metric: Student's t on the logit scale, with the spread of the bootstrap draws.

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
    hold the population's value (standard error .007). Given for 5 / 10 / 20 donors; `middling` has
    AUROC .78, `strong` .96, `uneven` .81 with many donors nearly all positive or all negative.

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
    in the models is not in the interval. Run ``python tests/_evaluation/test_intervals.py`` for the
    numbers.
    """
    if np.ptp(draws) == 0:
        return np.array([estimate, estimate])
    centre, spread = _to_line(np.asarray(estimate), ends), _to_line(draws, ends).std(ddof=1)
    line = centre + np.array([-1, 1]) * norm.ppf(_LEVEL[1]) * widening(n_units) * spread
    low, high = ends[0] + (ends[1] - ends[0]) * expit(line)
    return np.array([min(low, estimate), max(high, estimate)])


def difference_limits(difference: float, draws: np.ndarray, n_units: int) -> np.ndarray:
    """Lower and upper 95 % limit of a paired difference: percentiles, moved away from it as few units ask for.

    Notes
    -----
    Coverage in the simulation of `limits`, 5 / 10 / 20 donors: macro-F1 .951 / .952 / .948
    (middling), .917 / .940 / .915 (strong), .964 / .940 / .937 (uneven); AUROC .961 / .955 / .949,
    .803 / .839 / .870, .960 / .935 / .923. Plain percentiles: .848 / .910 / .930 and .872 / .910 /
    .927 (middling). Student's t does no better (.964 / .956 / .943 and .953 / .932 / .937), and its
    p would not be a share of draws. Near a perfect AUROC, p is too small and the limits too narrow.
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
    """Factor on a bootstrap's spread: Student's t in place of the normal, and n - 1 in place of n."""
    return float(
        np.sqrt(n_units / (n_units - 1)) * t.ppf(_LEVEL[1], n_units - 1) / norm.ppf(_LEVEL[1])
    )


def _widened(difference: float, draws: np.ndarray, n_units: int) -> np.ndarray:
    return difference + widening(n_units) * (draws - difference)


def _to_line(x: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Logit between the ends.

    The ends themselves are far out but finite, or one perfect draw would be all the spread.
    """
    return np.asarray(logit(np.clip((x - ends[0]) / (ends[1] - ends[0]), _NEAR, 1 - _NEAR)))
