"""Limma's moderated t with an abundance trend, of one coefficient of a linear model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special, stats

_ENOUGH_GENES = (3, 6, 30)  # from which the trend gets a further degree of freedom
_ALIASED = 1e-8  # share of the largest, below which a column is none of its own


class Moderated(NamedTuple):
    """Mean difference of each gene, its standard error, t and two-sided p; degrees of freedom."""

    effect: np.ndarray
    error: np.ndarray
    t: np.ndarray
    p: np.ndarray
    df: float | np.ndarray  # of all genes, or of each
    df_prior: float

    @property
    def q(self) -> np.ndarray:
        """Benjamini and Hochberg's q."""
        return np.asarray(stats.false_discovery_control(self.p))

    @property
    def evidence(self) -> dict[str, np.ndarray]:
        """Columns of a table: log2 fold change, its standard error and 95 % limits, t, p, q."""
        reach = self.error * stats.t.ppf(0.975, self.df)
        columns = {"log2_fc": self.effect, "error": self.error}
        columns |= {"low": self.effect - reach, "high": self.effect + reach}
        return columns | {"t": self.t, "p": self.p, "q": self.q}


def paired(differences: np.ndarray, abundance: np.ndarray) -> Moderated:
    """Test that the mean of the differences, donors × genes, is zero.

    `abundance` has one value per gene.
    """
    return Fit.of(differences, np.empty((len(differences), 0))).test(abundance)


def two_groups(last: np.ndarray, first: np.ndarray, abundance: np.ndarray) -> Moderated:
    """Test that the means of two groups, donors × genes, are the same."""
    is_last = np.repeat([1.0, 0.0], [len(last), len(first)])[:, None]
    return Fit.of(np.concatenate([last, first]), is_last, tested=0).test(abundance)


class Fit(NamedTuple):
    """Least squares of every gene on columns beside a constant, and one coefficient of it."""

    coefficients: np.ndarray  # (columns, genes), without the constant
    effect: np.ndarray  # the coefficient that is tested, of each gene
    weights: np.ndarray  # of the rows in it
    s2: np.ndarray  # residual variance of each gene
    df: int
    estimable: bool

    @classmethod
    def of(cls, values: np.ndarray, columns: np.ndarray, tested: int | None = None) -> Fit:
        """Fit rows × genes on rows × columns; of interest is a column, or the constant (None)."""
        n, mean, centre = len(values), values.mean(axis=0), columns.mean(axis=0)
        size = np.abs(columns).max(axis=0, initial=0.0) + np.finfo(float).tiny
        centred, spread = columns - centre, columns.std(axis=0)
        unit = np.where(spread > _ALIASED * size, spread, np.inf)
        solved = np.linalg.pinv(centred / unit, rcond=_ALIASED) / unit[:, None]
        beta = solved @ (values - mean)
        df = n - 1 - round(np.trace(solved @ centred))
        s2 = ((values - mean - centred @ beta) ** 2).sum(axis=0) / max(df, 1)
        if tested is None:
            effect, weights, aim = mean - centre @ beta, 1 / n - centre @ solved, 0.0 * centre
        else:
            effect, weights, aim = beta[tested], solved[tested], np.eye(len(centre))[tested]
        missed = np.abs((weights @ columns - aim) / np.where(aim == 0, size, 1.0))
        estimable = bool(df > 0 and missed.max(initial=0.0) < _ALIASED**0.5)
        return cls(beta, effect, weights, s2, df, estimable)

    def test(self, abundance: np.ndarray) -> Moderated:
        """Moderated t of the coefficient; where the rows do not tell it, all p are 1."""
        if self.estimable:
            unscaled = float(self.weights @ self.weights)
            return _moderated(self.effect, self.s2, self.df, unscaled, abundance)
        nothing, one = np.zeros_like(self.effect), np.ones_like(self.effect)
        return Moderated(nothing, one * np.inf, nothing, one, 0.0, 0.0)


def _moderated(
    effect: np.ndarray, s2: np.ndarray, df: int, unscaled: float, abundance: np.ndarray
) -> Moderated:
    """Shrink the variances `s2` towards their trend over abundance.

    Smyth 2004 (doi:10.2202/1544-6115.1027) with the trend of limma (Law et al. 2014,
    doi:10.1186/gb-2014-15-2-r29): the log-variances are regressed on a natural cubic spline of
    abundance, and what is left of their variance beyond that of a scaled chi-square gives the
    prior's degrees of freedom.
    """
    prior, df_prior = _prior(s2, df, abundance)
    posterior = prior
    if np.isfinite(df_prior):
        posterior = (df * s2 + df_prior * prior) / (df + df_prior)
    df_total = min(df + df_prior, df * len(effect))
    error = np.sqrt(posterior * unscaled)
    t = effect / error
    p = 2 * stats.t.sf(np.abs(t), df_total)
    return Moderated(effect, error, t, p, df_total, df_prior)


def _prior(s2: np.ndarray, df: int, abundance: np.ndarray) -> tuple[np.ndarray, float]:
    """Prior variance of each gene and its degrees of freedom, from the genes' variances `s2`."""
    # a gene without spread has no logarithm
    least = max(1e-5 * np.median(s2), np.finfo(float).tiny)
    log = np.log(np.maximum(s2, least)) - special.digamma(df / 2) + np.log(df / 2)
    basis = natural_spline(abundance, 1 + sum(len(log) >= n for n in _ENOUGH_GENES))
    beta, _, rank, _ = np.linalg.lstsq(basis, log, rcond=None)
    fitted = basis @ beta
    spread = ((log - fitted) ** 2).sum() / max(len(log) - rank, 1)
    excess = spread - special.polygamma(1, df / 2)
    if excess <= 0:
        return np.exp(fitted), np.inf
    half = trigamma_inverse(excess)  # of the degrees of freedom
    return np.exp(fitted + special.digamma(half) - np.log(half)), 2 * half


def natural_spline(x: np.ndarray, n: int) -> np.ndarray:
    """Basis of natural cubic splines, knots at quantiles: n columns, among them the constant."""
    n = min(n, len(np.unique(x)))
    if n <= 2:
        return np.vander(x, n, increasing=True)
    x = (x - x.mean()) / x.std()
    knots = np.quantile(x, np.linspace(0, 1, n))
    cubic = np.maximum(x[:, None] - knots, 0) ** 3
    d = (cubic[:, :-1] - cubic[:, -1:]) / (knots[-1] - knots[:-1])
    return np.column_stack([np.ones_like(x), x, d[:, :-1] - d[:, -1:]])


def trigamma_inverse(x: float) -> float:
    """The y with trigamma(y) = x, by Newton's method on 1 / trigamma, which is nearly linear."""
    y = 0.5 + 1 / x
    for _ in range(50):
        value = special.polygamma(1, y)
        step = value * (1 - value / x) / special.polygamma(2, y)
        y += step
        if abs(step) < 1e-10 * y:
            break
    return float(y)
