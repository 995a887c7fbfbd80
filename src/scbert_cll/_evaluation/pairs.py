"""How well logits rank the cells of a donor: an AUROC within donors, with an interval over donors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scbert_cll._evaluation.draws import interval_of, over_donors
from scbert_cll._evaluation.metrics import pairs_within

_N_DRAWS = 1000


class Pairs(NamedTuple):
    """Pairs of a positive and a negative cell of one donor: how many are ranked right, by each of several logits, and how many there are."""

    right: np.ndarray  # (donors, logits)
    n: np.ndarray  # (donors,)

    @classmethod
    def of(cls, logits: np.ndarray, positive: np.ndarray, donors: np.ndarray) -> Pairs:
        """Of logits (cells, any number of them)."""
        unit = np.unique(donors, return_inverse=True)[1]
        found = [
            pairs_within(positive.astype(int), np.column_stack([-x, x]), unit) for x in logits.T
        ]
        return cls(np.column_stack([right[:, 0] for right, _ in found]), found[0][1][:, 0])

    @classmethod
    def stacked(cls, parts: Sequence[Pairs]) -> Pairs:
        """Donors of several folds, one below the other."""
        return cls(
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.n for part in parts]),
        )

    def auroc(self) -> np.ndarray:
        """AUROC within donors, weighted by their number of pairs, of each logit."""
        return np.asarray(self.right.sum(axis=0) / self.n.sum())

    def less(self, other: Pairs) -> Pairs:
        """Differences of the two, donor by donor."""
        return Pairs(self.right - other.right, self.n)

    def interval(
        self, rng: np.random.Generator, *, difference: bool = False
    ) -> tuple[float, float]:
        """Limits of the first logit's AUROC (or of a `difference` of two) as in a cross-validation: 95 % over donors, the range of two to four.

        None with a single donor.
        """
        plan = over_donors(len(self.n), _N_DRAWS, rng)
        if plan is None:
            return float("nan"), float("nan")
        total = plan.weights @ self.n
        drawn = np.divide(
            plan.weights @ self.right[:, 0], total, out=np.full(len(total), np.nan), where=total > 0
        )
        found = interval_of(float(self.auroc()[0]), drawn, plan, None if difference else (0.0, 1.0))
        return found.low, found.high
