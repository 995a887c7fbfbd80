"""Donors are people: one name each, whatever the type of their column, and what is no person is no
donor, in every verb.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scbert_cll as sc_cll
from scbert_cll import _checks
from tests._make import cells_of_donors

cells_of = partial(cells_of_donors, dtype=object)
ONE_DONOR = [1, 1.0, "1", "1.0", " 1", "1 ", "1\u00a0", np.int64(1), np.float32(1), b"1"]
# What each demultiplexer writes for a droplet without one donor.
NO_DONOR = {
    "vireo": ["doublet", "unassigned"],
    "HTODemux": ["Doublet", "Negative"],
    "demuxlet": ["DBL-P1-P2-0.500", "AMB-P1-P1/P2", "DBL-P1-P2"],
    "GMM-Demux": ["negative", "unclear", "P1-P2"],
    "hashsolo": ["Doublet", "Negative"],
    "demuxEM": ["P1,P2", "unknown", ""],
    "Cell Ranger multi": ["Multiplet", "Unassigned", "Blank"],
    "cellhashR": ["Discordant", "Not Called"],
    "by pool": ["pool1_unassigned", "doublet_pool2"],
    "a table": ["", "nan", "NA", "None", "<NA>", "N/A", " ", "-"],
    "another": ["ambiguous", "AMBIGUOUS", "Unknown"],
}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    yield
    sc_cll.settings.reset()


def test_one_donor_has_one_name() -> None:
    assert set(_checks.people.donors(cells_of([*ONE_DONOR, "2"]), "donor")) == {"1", "2"}


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    st.sampled_from(["int64", "float64", "Int64", "object", "category"]),
)
def test_the_type_of_the_column_does_not_matter(numbers: list[int], dtype: str) -> None:
    adata = cells_of(numbers)
    adata.obs["donor"] = adata.obs["donor"].astype(dtype)
    assert _checks.people.donors(adata, "donor").tolist() == [str(n) for n in numbers]


@pytest.mark.parametrize("by", NO_DONOR)
def test_what_is_no_donor_is_left_out_with_a_count(by: str) -> None:
    words = NO_DONOR[by]
    with pytest.warns(UserWarning, match=f"^{len(words)} cells are left out") as told:
        found = _checks.people.donors(cells_of(["P1", "P2", *words]), "donor")
    assert found.dropna().tolist() == ["P1", "P2"]
    assert len(told) == 1
    assert told[0].filename == __file__


def test_a_pair_is_a_doublet_where_both_are_donors() -> None:
    with pytest.warns(UserWarning, match="'0/1' \\(1\\), '1,0' \\(1\\)"):
        assert _checks.people.donors(cells_of(["0", "1", "0/1", "1,0"]), "donor").tolist() == [
            "0",
            "1",
            None,
            None,
        ]
    with pytest.warns(UserWarning, match="'0,1' \\(1\\)"):  # freemuxlet's own way
        assert _checks.people.donors(
            cells_of(["0,0", "1,1", "0,1"]), "donor"
        ).dropna().tolist() == [
            "0,0",
            "1,1",
        ]
    assert _checks.people.donors(cells_of(["2021/17", "2021/18"]), "donor").tolist() == [
        "2021/17",
        "2021/18",
    ]
    names = ["IGHV_negative", "NA-12878", "unknown_3", "SNG-P1", "Blanka", "P1-2"]
    assert _checks.people.donors(cells_of(names), "donor").tolist() == names


def test_the_remedy_of_the_warning_works() -> None:
    adata = cells_of(["P1", "Negative", "doublet"])
    with pytest.warns(UserWarning, match="left out") as told:
        _checks.people.donors(adata, "donor")
    remedy = str(told[0].message).split("donor's name: ")[1].removesuffix(".")
    assert (
        remedy
        == "scbert_cll.settings.not_donors = set(scbert_cll.settings.not_donors) - {'negative'}"
    )
    exec(remedy, {"scbert_cll": sc_cll})  # noqa: S102
    with pytest.warns(UserWarning, match="1 cells are left out"):
        assert _checks.people.donors(adata, "donor").dropna().tolist() == ["P1", "Negative"]
    sc_cll.settings.not_donors = []
    assert _checks.people.donors(cells_of(["doublet", "", "0", "1", "0/1"]), "donor").notna().all()
    sc_cll.settings.not_donors = ["spike in"]
    with pytest.warns(UserWarning, match="'Spike_In'"):
        assert _checks.people.donors(
            cells_of(["doublet", "Spike_In"]), "donor"
        ).dropna().tolist() == ["doublet"]
    with pytest.raises(TypeError, match="list of words; found 1"):
        sc_cll.settings.not_donors = [1]


def test_nobody_is_left() -> None:
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(
            ValueError,
            match=r"No cell has a donor: adata.obs\['donor'\] holds 'Singlet', 'Doublet'",
        ),
    ):
        _checks.people.donors(cells_of(["Singlet", "Doublet"]), "donor")


@pytest.mark.parametrize(
    ("names", "told"), [(["P1", "p1"], "'P1' and 'p1'"), (["01", "1"], "'01' and '1'")]
)
def test_names_that_may_be_one_are_said(names: list[str], told: str) -> None:
    adata = cells_of([*names, "P2"])
    with pytest.warns(UserWarning, match=f"one person under two names: {told}") as found:
        assert _checks.people.donors(adata, "donor").tolist() == [*names, "P2"]
    exec(str(found[0].message).split("If they are one: ")[1].removesuffix("."), {"adata": adata})  # noqa: S102
    assert _checks.people.donors(adata, "donor").nunique() == 2
