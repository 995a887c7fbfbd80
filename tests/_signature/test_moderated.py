"""The moderated t and the size factors give the numbers of limma and DESeq2, as others have ported
them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from scbert_cll._signature.design import size_factors
from scbert_cll._signature.moderated import paired, trigamma_inverse, two_groups


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "data" / "limma_trend.npz") as file:
        return dict(file)


def test_paired_differences_as_limma(recorded) -> None:
    found = paired(recorded["differences"], recorded["abundance"])
    np.testing.assert_allclose(found.t, recorded["paired_t"], rtol=1e-9)
    np.testing.assert_allclose(found.p, recorded["paired_p"], rtol=1e-8)
    np.testing.assert_allclose(found.df_prior, recorded["paired_df_prior"], rtol=1e-9)


def test_two_groups_as_limma(recorded) -> None:
    half = len(recorded["differences"]) // 2
    found = two_groups(
        recorded["differences"][half:], recorded["differences"][:half], recorded["abundance"]
    )
    np.testing.assert_allclose(found.t, recorded["two_t"], rtol=1e-9)
    np.testing.assert_allclose(found.p, recorded["two_p"], rtol=1e-8)
    np.testing.assert_allclose(found.df_prior, recorded["two_df_prior"], rtol=1e-9)


def test_size_factors_as_deseq2(recorded) -> None:
    factors, counts = recorded["size_factors"], recorded["counts"]
    assert (counts == 0).any(axis=0).any()  # genes that are left out
    np.testing.assert_allclose(size_factors(counts.astype(float)), factors, rtol=1e-12)


def test_without_spread_beyond_chance_all_genes_share_a_variance() -> None:
    """The prior is certain: the test is a normal one."""
    rng = np.random.default_rng(0)
    found = paired(
        np.sqrt(2.0)
        * stats.norm.ppf((rng.permuted(np.tile(np.arange(8), (500, 1)), axis=1).T + 0.5) / 8),
        np.arange(500.0),
    )
    assert np.isinf(found.df_prior)
    np.testing.assert_allclose(found.error, found.error[0])


@given(st.floats(1e-3, 1e3))
def test_trigamma_inverse(x: float) -> None:
    assert special.polygamma(1, trigamma_inverse(x)) == pytest.approx(x, rel=1e-8)


@given(st.integers(3, 12), st.integers(0, 10**6))
def test_signs_and_units(n: int, seed: int) -> None:
    """Swapping the classes turns the effect, and a factor on all differences leaves t alone."""
    rng = np.random.default_rng(seed)
    values, abundance = rng.normal(size=(n, 40)), rng.uniform(1, 10, 40)
    found, turned, scaled = (paired(factor * values, abundance) for factor in (1, -1, 3))
    np.testing.assert_allclose(found.t, -turned.t)
    np.testing.assert_allclose(found.t, scaled.t, rtol=1e-6)
    assert ((found.p >= 0) & (found.p <= 1)).all()
