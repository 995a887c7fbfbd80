"""Cells of a donor are grouped by a number in order, with ties together, and enough in each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll._signature.slope import groups

LEAST = 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from("xy"), st.integers(0, 9)),
        min_size=1,
        max_size=120,
    )
)
def test_groups_are_in_order_and_large_enough(cells: list[tuple[str, str, int]]) -> None:
    donors, samples, values = (np.array(part) for part in zip(*cells, strict=True))
    codes = groups(values.astype(float), donors, samples, LEAST)
    for donor in "ABC":
        n_groups = set()
        for sample in "xy":
            rows = (donors == donor) & (samples == sample) & (codes >= 0)
            parts = [values[rows & (codes == code)] for code in np.unique(codes[rows])]
            if parts:
                n_groups.add(len(parts))
                assert len(parts) >= 2
                assert codes[rows].max() == len(parts) - 1
                assert min(map(len, parts)) >= LEAST
                assert all(a.max() < b.min() for a, b in pairwise(parts))
        assert len(n_groups) <= 1


def test_groups_are_fifths_where_there_are_cells_enough() -> None:
    rng = np.random.default_rng(0)
    values, one = rng.normal(size=100), np.full(100, "A")
    assert np.bincount(groups(values, one, one, 20)).tolist() == [20] * 5
    assert groups(values, one, one, 33).max() == 2
    assert (groups(values, one, one, 51) == -1).all()
    zeros = np.where(np.arange(100) < 70, 0.0, values + 5)
    assert np.bincount(groups(zeros, one, one, 20)).tolist() == [70, 30]


def test_a_donor_whose_levels_hardly_differ_is_left_out() -> None:
    values = np.concatenate([np.linspace(0, 1, 50)] * 3 + [np.linspace(0, 0.4, 50)])
    donors = np.repeat(list("ABCD"), 50)
    codes = groups(values, donors, donors, 10)
    assert (codes[donors == "D"] == -1).all()
    assert (codes[donors != "D"] >= 0).all()
