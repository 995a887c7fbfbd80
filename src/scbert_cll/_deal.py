"""Whole donors dealt to parts: about as even as whole donors allow, and at random among the deals that are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

_STARTS: Final = 20
_MOST_SWAPS: Final = 2000  # looked at in a step; of more, a random choice
_TOLERANCE: Final = (
    0.5  # of a donor, spread over the parts: how much less even than the best a deal may be
)
EMPTY: Final = 1e6  # what a part without a donor lacks: more than all else together


class _Deal(NamedTuple):
    part: np.ndarray  # (donors,)
    lack: float
    deviation: float  # root mean square, over parts and columns, of share got − share wanted


def weights_of(*columns: np.ndarray) -> np.ndarray:
    """What each donor holds (donors × columns, each summing to 1): of the donors, then of what `columns` count, e.g. cells per class."""
    counted = [np.ones(len(columns[0])), *(column for column in columns if column.sum())]
    return np.stack([column / column.sum() for column in counted], axis=1)


def deal(
    weights: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
    *,
    lacking: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Part of each donor, such that every part has about its share of every column.

    From random starts donors are moved and swapped as long as that helps. What is returned is the
    first deal on these ways that lacks no more than the best, and is nearly as even: with another
    seed it is another one, if there is another one.

    Parameters
    ----------
    weights
        From `weights_of`; the order of the donors should not depend on that of their cells.
    shares
        Share of each part; they sum to 1.
    rng
        Of starts and steps.
    lacking
        What is missing in a deal, out of what its parts got (deals × parts × columns); it counts
        before evenness.
    """
    tolerance, ways = _TOLERANCE / (len(weights) * shares.size), list[_Deal]()
    for _ in range(_STARTS):
        ways += _way(weights, shares, rng, lacking, tolerance)
        if ways[-1].lack == 0 and ways[-1].deviation <= tolerance:
            break
    least = min(deal.lack for deal in ways)
    even = min(deal.deviation for deal in ways if deal.lack == least) + tolerance
    return next(deal.part for deal in ways if deal.lack == least and deal.deviation <= even)


def _way(
    weights: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
    lacking: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
) -> list[_Deal]:
    """Deals from a random start on, each better than the one before, to a local optimum or one that is even enough anyway."""
    best = _Deal(rng.choice(shares.size, size=len(weights), p=shares), np.inf, np.inf)
    way = list[_Deal]()
    while best.lack > 0 or best.deviation > tolerance:
        step = _best_step(best.part, weights, shares, rng, lacking)
        if (step.lack, step.deviation + 1e-9) >= (best.lack, best.deviation):
            break
        best = step
        way.append(best)
    return way


def _best_step(
    part: np.ndarray,
    weights: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
    lacking: Callable[[np.ndarray], np.ndarray],
) -> _Deal:
    """The best neighbour: one donor moved (or none), or two of different parts exchanged."""
    n, k = len(part), shares.size
    got = (part == np.arange(k)[:, None]) @ weights  # (parts, columns)
    i, to = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    a, b = np.triu_indices(n, 1)
    a, b = a[part[a] != part[b]], b[part[a] != part[b]]
    if a.size > _MOST_SWAPS:
        some = rng.choice(a.size, _MOST_SWAPS, replace=False)
        a, b = a[some], b[some]
    # a move is an exchange with nobody, whose weight is nothing
    i, to = np.concatenate([i, a]), np.concatenate([to, part[b]])
    gain = weights[i] - np.concatenate([np.zeros((n * k, weights.shape[1])), weights[b]])
    steps, rows = np.repeat(got[None], i.size, axis=0), np.arange(i.size)  # (steps, parts, columns)
    steps[rows, part[i]] -= gain
    steps[rows, to] += gain
    lack, deviation = lacking(steps), np.sqrt(((steps - shares[:, None]) ** 2).mean((1, 2)))
    best = int(np.lexsort((deviation, lack))[0])
    after = part.copy()
    after[i[best]] = to[best]
    if best >= n * k:
        after[b[best - n * k]] = part[i[best]]
    return _Deal(after, float(lack[best]), float(deviation[best]))
