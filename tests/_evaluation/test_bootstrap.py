"""Limits from bootstrap draws: what they cover, and what they are."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr, ndtri
from scipy.stats import t

from scbert_cll._evaluation.bootstrap import difference_limits, limits, p_value, widening
from scbert_cll._evaluation.metrics import weighted

# ---- coverage: patients from a population whose truth is known
# ------------------------------------------------------

MEASURED = ("macro_f1", "auroc")
POPULATIONS = {
    "middling": {"separation": 1.5, "sd_separation": 0.4, "sd_shift": 0.6, "sd_prevalence": 1.0},
    "strong": {"separation": 4.0, "sd_separation": 0.8, "sd_shift": 1.0, "sd_prevalence": 1.0},
    "uneven": {"separation": 2.0, "sd_separation": 0.6, "sd_shift": 1.0, "sd_prevalence": 2.0},
}


def patients(n, rng, *, separation, sd_separation, sd_shift, sd_prevalence, cells=150):
    """Cells of `n` patients, each with its own share of positives, shift and separation of the
    scores, under two models.
    """
    unit = np.repeat(np.arange(n), np.maximum(rng.lognormal(np.log(cells), 0.5, n).astype(int), 20))
    y = (rng.random(unit.size) < expit(rng.normal(-0.3, sd_prevalence, n))[unit]).astype(int)

    def scores(scale):
        own = separation + rng.normal(0, sd_separation, n)[unit]
        return (y - 0.5) * own * scale + (
            rng.normal(0, sd_shift, n)[unit] + rng.logistic(size=unit.size) * 0.7
        ) * scale

    first = scores(1.0)
    second = 0.7 * first + scores(0.3) + 0.15 * (y - 0.5)
    return unit, y, [np.stack([expit(-s), expit(s)], axis=1) for s in (first, second)]


def bca(estimate, drawn, left_out):
    """Efron's bias-corrected and accelerated percentiles."""
    bias = ndtri(
        np.clip(((drawn < estimate).mean() + (drawn <= estimate).mean()) / 2, 1e-6, 1 - 1e-6)
    )
    away = left_out.mean() - left_out
    speed = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z = bias + ndtri([0.025, 0.975])
    return np.quantile(drawn, ndtr(bias + z / (1 - speed * z)))


def candidates(estimate, drawn, left_out, n):
    half = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) * drawn.std(ddof=1)
    return {
        "percentile": np.quantile(drawn, [0.025, 0.975]),
        "BCa": bca(estimate, drawn, left_out),
        "t": estimate + np.array([-half, half]),
        "widened percentile": difference_limits(estimate, drawn, n),
        "t, logit scale": limits(estimate, drawn, n, (0, 1)),
    }


def coverage(n, population, *, n_sets, n_draws, seed=0):
    """Share of simulated studies whose 95 % interval holds the population's value, by metric and
    kind of interval.
    """
    rng = np.random.default_rng(seed)
    one = np.ones((1, 1))
    unit, y, both = patients(20_000, rng, **POPULATIONS[population])
    truth = np.stack([weighted(MEASURED, y, p, np.zeros_like(y), one)[:, 0] for p in both])
    hits = []
    for _ in range(n_sets):
        unit, y, both = patients(n, rng, **POPULATIONS[population])
        weights = np.vstack(
            [np.ones(n), 1 - np.eye(n), rng.multinomial(n, np.full(n, 1 / n), n_draws)]
        )
        first, second = (weighted(MEASURED, y, p, unit, weights) for p in both)
        cases = [(m, first[i], truth[0, i]) for i, m in enumerate(MEASURED)]
        cases += [
            (f"{m} difference", (second - first)[i], (truth[1] - truth[0])[i])
            for i, m in enumerate(MEASURED)
        ]
        for metric, found, true in cases:
            drawn = found[n + 1 :][np.isfinite(found[n + 1 :])]
            for kind, (low, high) in candidates(found[0], drawn, found[1 : n + 1], n).items():
                if "logit" not in kind or "difference" not in metric:
                    hits.append({"metric": metric, "interval": kind, "covers": low <= true <= high})
    return pd.DataFrame(hits).pivot_table(
        index="metric", columns="interval", values="covers", aggfunc="mean"
    )


@pytest.mark.slow  # hundreds of data sets
def test_the_intervals_cover_a_known_truth_and_plain_percentiles_do_not():
    # standard error of a share of .95 in 120 studies: .02
    found = coverage(10, "middling", n_sets=120, n_draws=300, seed=1)
    shipped = [found.loc[m, "t, logit scale"] for m in MEASURED]
    shipped += [found.loc[f"{m} difference", "widened percentile"] for m in MEASURED]
    assert min(shipped) > 0.87
    assert np.mean(shipped) > found["percentile"].mean() + 0.02
    assert np.mean(shipped) > found["BCa"].mean() + 0.02


# ---- limits
# --------------------------------------------------------------------------------------------------


def test_limits_are_t_on_the_logit_scale_and_stay_inside():
    drawn = expit(np.random.default_rng(0).normal(1, 0.2, 4000))
    line = np.log(drawn / (1 - drawn))
    half = np.sqrt(10 / 9) * t.ppf(0.975, 9) * line.std(ddof=1)
    np.testing.assert_allclose(limits(expit(1), drawn, 10, (0, 1)), expit([1 - half, 1 + half]))
    np.testing.assert_allclose(
        limits(2 * expit(1) - 1, 2 * drawn - 1, 10, (-1, 1)), 2 * expit([1 - half, 1 + half]) - 1
    )
    assert limits(1.0, np.ones(50), 10, (0, 1)).tolist() == [1, 1]
    low, high = limits(0.99, np.random.default_rng(1).uniform(0.9, 1, 500), 5, (0, 1))
    assert 0 < low < 0.9
    assert 0.99 < high <= 1


def test_a_normal_mean_has_students_interval():
    x = np.random.default_rng(0).normal(0.1, 0.3, 12)
    drawn = x[np.random.default_rng(1).integers(0, 12, (40_000, 12))].mean(1)
    half = t.ppf(0.975, 11) * x.std(ddof=1) / np.sqrt(12)
    np.testing.assert_allclose(
        difference_limits(x.mean(), drawn, 12), [x.mean() - half, x.mean() + half], atol=0.02
    )
    assert widening(12) == pytest.approx(np.sqrt(12 / 11) * 2.201 / 1.96, abs=1e-3)


def test_p_is_below_five_percent_just_where_the_interval_leaves_zero_out():
    drawn = np.random.default_rng(0).normal(0, 1, 2000)
    for difference in np.linspace(1.5, 4, 26):
        low, _ = difference_limits(difference, drawn + difference, 10)
        p = p_value(difference, drawn + difference, 10)
        assert (p < 0.05) == (low > 0) or abs(low) < 0.01
        assert p_value(-difference, drawn * -1 - difference, 10) == pytest.approx(p)
    assert p_value(9, drawn + 9, 10) == 1 / 2001
    assert p_value(0, drawn * 0, 10) == 1


if __name__ == "__main__":  # the numbers of the Notes: python tests/_evaluation/test_bootstrap.py
    parser = argparse.ArgumentParser(
        description="Coverage of 95 % intervals, by population, donors and kind."
    )
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    wanted = parser.parse_args()
    for name in POPULATIONS:
        for n_donors in (5, 10, 20):
            shares = coverage(n_donors, name, n_sets=wanted.sets, n_draws=wanted.draws)
            sys.stdout.write(f"\n{name}, {n_donors} donors\n{shares.round(3).to_string()}\n")
