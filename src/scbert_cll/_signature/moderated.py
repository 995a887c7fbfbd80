"""Limma's moderated t with an abundance trend, for paired differences and for two groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special, stats

_ENOUGH_GENES = (3, 6, 30)  # from which the trend gets a further degree of freedom


class Moderated(NamedTuple):
    """Mean difference of each gene, its standard error, t and two-sided p; degrees of freedom."""

    effect: np.ndarray
    error: np.ndarray
    t: np.ndarray
    p: np.ndarray
    df: float
    df_prior: float


def paired(differences: np.ndarray, abundance: np.ndarray) -> Moderated:
    """Test that the mean of the differences, donors × genes, is zero.

    `abundance` has one value per gene.
    """
    n, variance = len(differences), differences.var(0, ddof=1)
    return _moderated(differences.mean(0), variance, n - 1, 1 / n, abundance)


def two_groups(last: np.ndarray, first: np.ndarray, abundance: np.ndarray) -> Moderated:
    """Test that the means of two groups, donors × genes, are the same."""
    n, m, effect = len(last), len(first), last.mean(0) - first.mean(0)
    within = (n * last.var(0) + m * first.var(0)) / (n + m - 2)
    return _moderated(effect, within, n + m - 2, 1 / n + 1 / m, abundance)


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
