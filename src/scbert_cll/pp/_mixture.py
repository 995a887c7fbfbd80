"""One or two populations: a Gaussian mixture in one dimension and its monotone posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit
from sklearn.mixture import GaussianMixture

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


def fit(x: np.ndarray, seed: int) -> Mixture:
    """Fit one and two components; sorted first, so that the order of the cells cannot matter."""
    column = np.sort(np.asarray(x, dtype=np.float64))[:, None]
    one = GaussianMixture(1, random_state=seed).fit(column)
    starts = {"n_init": 5, "init_params": "k-means++", "max_iter": 1000}
    two = GaussianMixture(2, random_state=seed, **starts).fit(column)
    order = np.argsort(two.means_.ravel())
    return Mixture(
        means=two.means_.ravel()[order],
        sds=np.sqrt(two.covariances_.ravel()[order]),
        weights=two.weights_[order],
        bic_1=float(one.bic(column)),
        bic_2=float(two.bic(column)),
    )


def fit_cells(levels: Levels, cells: np.ndarray, seed: int) -> Mixture | None:
    """A mixture of some cells; None where they are few, or all at one level."""
    if cells.sum() < MIN_CELLS or np.ptp(levels.level[cells]) == 0:
        return None
    mixture = fit(levels.spread[cells], seed)
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
