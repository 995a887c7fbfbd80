"""How well logits rank the cells of a donor: AUROC within donors, with an interval over donors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scbert_cll._evaluation.bootstrap import interval_of, over_donors
from scbert_cll._evaluation.ranks import pairs_within, ratio

_N_DRAWS = 1000


class Pairs(NamedTuple):
    """Pairs of a positive and a negative cell of one donor: those ranked right, and all.

    The former by each of several logits.
    """

    right: np.ndarray  # (donors, logits)
    n: np.ndarray  # (donors,)

    @classmethod
    def of(cls, logits: np.ndarray, positive: np.ndarray, donors: np.ndarray) -> Pairs:
        """Of logits (cells, any number of them)."""
        unit, y = np.unique(donors, return_inverse=True)[1], positive.astype(int)
        counted = [pairs_within(y, np.column_stack([-x, x]), unit) for x in logits.T]
        return cls(np.hstack([right for right, _ in counted]), counted[0][1][:, 0])

    @classmethod
    def stacked(cls, parts: Sequence[Pairs]) -> Pairs:
        """Donors of several folds, one below the other."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def auroc(self) -> np.ndarray:
        """AUROC within donors, weighted by their number of pairs, of each logit."""
        return np.asarray(self.right.sum(axis=0) / self.n.sum())

    def less(self, other: Pairs) -> Pairs:
        """Differences of the two, donor by donor."""
        return Pairs(self.right - other.right, self.n)

    def interval(
        self, rng: np.random.Generator, *, difference: bool = False
    ) -> tuple[float, float]:
        """Limits of the first logit's AUROC (or of a `difference`), as in a cross-validation.

        95 % over donors, or the range of two to four. NaN with a single donor.
        """
        drawn = over_donors(len(self.n), _N_DRAWS, rng)
        if drawn is None:
            return np.nan, np.nan
        draws = ratio(drawn.weights @ self.right[:, 0], drawn.weights @ self.n)
        ends = None if difference else (0.0, 1.0)
        interval = interval_of(float(self.auroc()[0]), draws, drawn, ends)
        return interval.low, interval.high
