"""Whole donors dealt to parts: as even as whole donors allow, at random among such deals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

type Lacking = Callable[[np.ndarray], np.ndarray]

_STARTS: Final = 20
_MOST_SWAPS: Final = 2000  # looked at in a step; of more, a random choice
_TOLERANCE: Final = 0.5  # of a donor, over the parts: less even than the best
EMPTY: Final = 1e6  # what a part without a donor lacks: more than all else together


class _Deal(NamedTuple):
    part: np.ndarray  # (donors,)
    lack: float
    deviation: float  # root mean square, over parts and columns, from the shares wanted


def weights_of(*columns: np.ndarray) -> np.ndarray:
    """What each donor holds: donors × columns, each summing to 1.

    Of the donors, then of what `columns` count, e.g. cells per class.
    """
    counted = [np.ones(len(columns[0])), *columns]
    shares = [column / column.sum() for column in counted if column.sum()]
    return np.stack(shares, axis=1)


def deal(
    weights: np.ndarray, shares: np.ndarray, rng: np.random.Generator, lacking: Lacking
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
    search = _Search(weights, shares, rng, lacking)
    deals = list[_Deal]()
    for _ in range(_STARTS):
        deals += search.improved()
        if search.is_even(deals[-1]):
            break
    least = min(deal.lack for deal in deals)
    deals = [deal for deal in deals if deal.lack == least]
    even = min(deal.deviation for deal in deals) + search.tolerance
    return next(deal.part for deal in deals if deal.deviation <= even)


@dataclass(frozen=True)
class _Search:
    weights: np.ndarray
    shares: np.ndarray
    rng: np.random.Generator
    lacking: Lacking

    @property
    def tolerance(self) -> float:
        return _TOLERANCE / (len(self.weights) * self.shares.size)

    def is_even(self, deal: _Deal) -> bool:
        return deal.lack == 0 and deal.deviation <= self.tolerance

    def improved(self) -> list[_Deal]:
        """Deals from a random start on, each better than the one before, until one is even."""
        part = self.rng.choice(self.shares.size, size=len(self.weights), p=self.shares)
        best, deals = _Deal(part, np.inf, np.inf), list[_Deal]()
        while not self.is_even(best):
            step = self.best_step(best.part)
            if (step.lack, step.deviation + 1e-9) >= (best.lack, best.deviation):
                break
            best = step
            deals.append(best)
        return deals

    def best_step(self, part: np.ndarray) -> _Deal:
        """The best neighbour: one donor moved (or none), or two of different parts exchanged."""
        n, k = len(part), self.shares.size
        i, to = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
        a, b = np.triu_indices(n, 1)
        a, b = a[part[a] != part[b]], b[part[a] != part[b]]
        if a.size > _MOST_SWAPS:
            some = self.rng.choice(a.size, _MOST_SWAPS, replace=False)
            a, b = a[some], b[some]
        # a move is an exchange with nobody, whose weight is nothing
        i, to = np.concatenate([i, a]), np.concatenate([to, part[b]])
        nobody = np.zeros((n * k, self.weights.shape[1]))
        gain = self.weights[i] - np.concatenate([nobody, self.weights[b]])
        amounts = (part == np.arange(k)[:, None]) @ self.weights  # (parts, columns)
        steps, rows = np.repeat(amounts[None], i.size, axis=0), np.arange(i.size)
        steps[rows, part[i]] -= gain
        steps[rows, to] += gain
        lack = self.lacking(steps)
        deviation = np.sqrt(((steps - self.shares[:, None]) ** 2).mean((1, 2)))
        best = int(np.lexsort((deviation, lack))[0])
        after = part.copy()
        after[i[best]] = to[best]
        if best >= n * k:
            after[b[best - n * k]] = part[i[best]]
        return _Deal(after, float(lack[best]), float(deviation[best]))
