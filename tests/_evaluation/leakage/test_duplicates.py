"""Equal profiles, equal names, and pairs that are closer than two cells can be: arrays in, arrays
out.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scbert_cll._counts import log_normalised
from scbert_cll._evaluation.leakage import duplicates as leakage_duplicates


def counts(n: int = 200, genes: int = 300, mean: float = 1.5, seed: int = 0) -> np.ndarray:
    """Cells of one expression: they differ by counting noise and by nothing else."""
    rng = np.random.default_rng(seed)
    return rng.poisson(mean * rng.lognormal(0, 1, genes), (n, genes))


def csr(values: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(values.astype(np.float32))


# -- profiles and names
# -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=8))
def test_hashes_are_equal_where_rows_are(rows: list[list[int]]) -> None:
    found = leakage_duplicates.profile_hashes(csr(np.array(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (found[i] == found[j]) == (a == b)


def test_hashes_know_values_not_storage() -> None:
    values = np.array([[0, 2, 1], [2, 0, 1], [0, 0, 0]])
    expected = leakage_duplicates.profile_hashes(csr(values))
    stored_zeros = sparse.csr_matrix(
        (values.ravel(), np.tile(np.arange(3), 3), [0, 3, 6, 9]), dtype=np.int64
    )
    unsorted = sparse.csr_matrix(
        (np.array([1.0, 2, 1, 2]), np.array([2, 1, 2, 0]), [0, 2, 4, 4]), shape=(3, 3)
    )
    long = csr(values)
    long.indices = long.indices.astype(np.int64)
    for other in (stored_zeros, unsorted, long):
        before = other.copy()
        assert leakage_duplicates.profile_hashes(other).tolist() == expected.tolist()
        assert np.array_equal(other.indices, before.indices), "the matrix itself is left alone"
    assert len(set(expected)) == 3


@pytest.mark.parametrize(
    ("names", "base", "sure"),
    [
        (["c7", "c7-copy1", "c7-smote12"], ["c7", "c7", "c7"], [False, True, True]),
        (["c7-copy1", "c7-copy2"], ["c7", "c7"], [True, True]),
        (["c7", "c7-1", "c7-copy1-1"], ["c7", "c7", "c7-copy1-1"], [False, False, False]),
        (
            ["AAAC-1", "AAAC-2", "AAAG-1"],
            ["AAAC-1", "AAAC-2", "AAAG-1"],
            [False] * 3,
        ),  # libraries of 10x
        (["AAAC-1", "AAAC-1-1"], ["AAAC-1", "AAAC-1"], [False, False]),
        (["photo-copy", "smote1"], ["photo-copy", "smote1"], [False, False]),
    ],
)
def test_suffixes_of_resampling(names: list[str], base: list[str], sure: list[bool]) -> None:
    found, certain = leakage_duplicates.resampled_from(names)
    assert found.tolist() == base
    assert certain.tolist() == sure


def test_twins_name_both_sides() -> None:
    keys = np.array(["a", "b", "a", "a", "c", "b"], dtype=object)
    parts = np.array(["train", "train", "test", "val", "test", None], dtype=object)
    names = np.array([f"cell{i}" for i in range(6)], dtype=object)
    found = leakage_duplicates.twins(keys, parts, names, ("train", "test"))
    assert found[["cell", "twin", "at"]].to_numpy().tolist() == [["cell2", "cell0", 2]]
    assert leakage_duplicates.twins(keys, parts, names, ("test", "train"))["cell"].tolist() == [
        "cell0"
    ]


# -- counting noise
# --------------------------------------------------------------------------------------------------


def test_counting_noise_equals_its_formula() -> None:
    a, b = counts(5, 40, seed=1), counts(5, 40, seed=2) * 3
    expected = []
    for x, y in zip(a, b, strict=True):
        q, terms = x.sum() / (x.sum() + y.sum()), []
        for one, two in zip(x, y, strict=True):
            if s := one + two:
                terms.append((one - q * s) ** 2 / (s * q * (1 - q)))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(
        leakage_duplicates.counting_noise(csr(a), csr(b))["noise"], expected, rtol=1e-5
    )


@pytest.mark.parametrize("depth", [1.0, 4.0])
def test_cells_of_equal_expression_differ_by_one_unit_of_noise(depth: float) -> None:
    """z is standard normal under the null, whatever the depths: the spread comes from the
    binomial's fourth moment.
    """
    rng, level = np.random.default_rng(3), 0.8 * np.random.default_rng(4).lognormal(0, 1, 400)
    a, b = rng.poisson(level, (1500, 400)), rng.poisson(depth * level, (1500, 400))
    found = leakage_duplicates.counting_noise(csr(a), csr(b))
    assert found["noise"].mean() == pytest.approx(1, abs=0.01)
    assert abs(found["z"].mean()) < 0.12
    assert found["z"].std() == pytest.approx(1, abs=0.12)


def test_a_copy_is_at_the_lowest() -> None:
    a = csr(counts(10))
    found = leakage_duplicates.counting_noise(a, a)
    np.testing.assert_allclose(found["noise"], 0, atol=1e-12)
    np.testing.assert_allclose(found["z"], found["lowest"])


def test_shared_counts_lower_the_noise_by_their_share() -> None:
    """A point (1 − u) a + u b with thinned counts differs from a by about u units."""
    rng, pair = np.random.default_rng(5), counts(800, 300, mean=20, seed=6)
    a, b = pair[:400], pair[400:]
    for u in (0.1, 0.3, 0.5):
        child = rng.binomial(a, 1 - u) + rng.binomial(b, u)
        assert leakage_duplicates.counting_noise(csr(child), csr(a))[
            "noise"
        ].mean() == pytest.approx(u, abs=0.03)


# -- distances
# --------------------------------------------------------------------------------------------------


def test_nearest_finds_the_planted_twin() -> None:
    values = counts(120, 60, mean=4)
    log = log_normalised(csr(np.vstack([values, values[:5]])))
    found = leakage_duplicates.nearest(log, np.arange(120), np.arange(120, 125), seed=0)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.shape == (5, leakage_duplicates.N_NEIGHBORS)


def test_distance_ratio() -> None:
    points = csr(np.array([[0, 0], [3, 4], [6, 8]]))
    found = leakage_duplicates.distance_ratio(points, np.array([0, 0]), np.array([[1, 2], [0, 0]]))
    np.testing.assert_allclose(found, [0.5, 0.0])
