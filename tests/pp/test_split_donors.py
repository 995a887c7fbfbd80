from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import scbert_cll as sb
from tests._make import unchanged


def patients(sizes, labels=None, seed=0):
    """An AnnData with `sizes` cells per donor; `labels` are shares of class 'pos' per donor."""
    rng = np.random.default_rng(seed)
    donor = np.repeat([f"d{i:02}" for i in range(len(sizes))], sizes)
    adata = AnnData(np.ones((donor.size, 2), dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(donor.size)]
    adata.obs["donor"] = donor
    if labels is not None:
        adata.obs["y"] = np.where(rng.random(donor.size) < np.repeat(labels, sizes), "pos", "neg")
    return adata


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(3, 14))
def test_every_donor_is_in_one_part_and_every_part_is_filled(data, n):
    sizes = data.draw(st.lists(st.integers(1, 60), min_size=n, max_size=n))
    adata = patients(sizes)
    sb.pp.split_donors(adata, "donor", rng=data.draw(st.integers(0, 99)))
    split = adata.obs["split"]
    assert list(split.cat.categories) == ["train", "val", "test"]
    assert split.notna().all()
    assert split.groupby(adata.obs["donor"]).nunique().max() == 1
    assert set(split) == {"train", "val", "test"}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rng=st.integers(0, 99))
def test_neither_row_nor_donor_order_matters(seed, rng):
    order = np.random.default_rng(seed)
    adata = patients([30, 10, 25, 40, 5, 12, 33], labels=[0, 1, 0.3, 0.5, 1, 0, 0.2])
    shuffled = adata[order.permutation(adata.n_obs)].copy()
    shuffled.obs["donor"] = pd.Categorical(
        shuffled.obs["donor"], categories=order.permutation(shuffled.obs["donor"].unique())
    )
    for unit in ("donor", "cell"):
        sb.pp.split_donors(adata, "donor", labels_key="y", unit=unit, rng=rng)
        sb.pp.split_donors(shuffled, "donor", labels_key="y", unit=unit, rng=rng)
        pd.testing.assert_series_equal(shuffled.obs["split"][adata.obs_names], adata.obs["split"])


def test_parts_come_close_to_their_share_of_cells_and_classes():
    rng = np.random.default_rng(1)
    adata = patients(rng.integers(20, 120, 40), labels=rng.choice([0.02, 0.5, 0.97], 40))
    sb.pp.split_donors(adata, "donor", labels_key="y")
    for cells in (
        adata.obs,
        adata.obs[adata.obs["y"] == "pos"],
        adata.obs[adata.obs["y"] == "neg"],
    ):
        share = cells["split"].value_counts(normalize=True)
        assert share.to_dict() == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.02)


def deviation(sizes: np.ndarray, parts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Root mean squared deviation of each split (splits × donors) from its shares of the donors and
    of the cells.
    """
    chosen = parts[:, None] == np.arange(3)[:, None]
    got = np.stack([chosen.mean(2), chosen @ sizes / sizes.sum()], axis=2)
    return np.sqrt(((got - shares[:, None]) ** 2).mean((1, 2)))


def test_it_is_about_as_even_as_any_split_and_the_seed_says_which():
    from itertools import product

    sizes, shares = np.array([50, 10, 30, 20, 40, 25, 35]), np.array([0.6, 0.2, 0.2])
    possible = np.array([parts for parts in product(range(3), repeat=7) if len(set(parts)) == 3])
    found = []
    for rng in range(10):
        adata = patients(sizes)
        sb.pp.split_donors(adata, "donor", fractions=tuple(shares), rng=rng)
        found.append(
            adata.obs.groupby("donor")["split"]
            .first()
            .map({"train": 0, "val": 1, "test": 2})
            .to_numpy()
        )
    best = deviation(sizes, possible, shares).min()
    assert deviation(sizes, np.array(found), shares).max() <= best + 0.5 / (
        7 * 3
    )  # half a donor over three parts
    assert (
        len({tuple(np.flatnonzero(part == 0)) for part in found}) >= 5
    )  # who trains; not only val and test swapped


def test_homogeneous_donors_leave_every_class_in_every_part():
    adata = patients([40] * 10, labels=[0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    sb.pp.split_donors(adata, "donor", labels_key="y")
    assert (pd.crosstab(adata.obs["split"], adata.obs["y"]) > 0).all(axis=None)


def test_a_class_of_one_donor_goes_to_train():
    adata = patients([40] * 6, labels=[0, 0, 0, 0, 0, 1])
    for rng in range(5):
        for fractions in ((0.7, 0.15, 0.15), (0.2, 0.2, 0.6)):
            sb.pp.split_donors(adata, "donor", labels_key="y", rng=rng, fractions=fractions)
            assert set(adata.obs.loc[adata.obs["y"] == "pos", "split"]) == {"train"}


def test_unlabelled_cells_follow_their_donor():
    adata = patients([20] * 5, labels=[0.5] * 5)
    adata.obs.loc[adata.obs_names[::3], "y"] = None
    sb.pp.split_donors(adata, "donor", labels_key="y")
    assert adata.obs.groupby("donor")["split"].nunique().max() == 1
    table = adata.uns["split"]["donors"]
    assert table["n_cells"].sum() == 100
    assert table[["n_neg", "n_pos"]].to_numpy().sum() == adata.obs["y"].notna().sum()


def test_two_donors_without_validation():
    adata = patients([30, 20])
    sb.pp.split_donors(adata, "donor", fractions=(0.6, 0, 0.4))
    assert adata.obs.groupby("split", observed=True)["donor"].unique().map(list).to_dict() == {
        "train": ["d00"],
        "test": ["d01"],
    }


def test_within_donors_every_stratum_keeps_the_shares_and_it_is_said():
    adata = patients([200, 300], labels=[0.3, 0.6])
    sb.pp.split_donors(adata, "donor", labels_key="y", unit="cell")
    share = pd.crosstab([adata.obs["donor"], adata.obs["y"]], adata.obs["split"], normalize="index")
    np.testing.assert_allclose(
        share[["train", "val", "test"]], np.tile([0.7, 0.15, 0.15], (4, 1)), atol=0.02
    )
    assert adata.uns["split"]["params"]["donors_shared"]
    assert adata.uns["split"]["params"]["unit"] == "cell"


def test_seed_decides_the_cells_within_donors():
    adata = patients([200, 300])
    a, b, c = (
        sb.pp.split_donors(adata, "donor", unit="cell", rng=r, copy=True).obs["split"]
        for r in (0, 0, 1)
    )
    assert (a == b).all()
    assert (a != c).any()


def test_copy_and_survival_on_disk(tmp_path):
    adata = patients([20] * 5, labels=[0.5] * 5)
    adata.obs["y"] = adata.obs["y"].replace("pos", "CD4/CD8")
    out = sb.pp.split_donors(adata, "donor", labels_key="y", copy=True)
    assert "split" not in adata.obs
    assert "split" not in adata.uns
    out.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_series_equal(back.obs["split"], out.obs["split"])
    assert (
        back.uns["split"]["donors"]["n_CD4%2FCD8"].tolist()
        == out.uns["split"]["donors"]["n_CD4%2FCD8"].tolist()
    )
    assert list(back.uns["split"]["params"]["fractions"]) == [0.7, 0.15, 0.15]


def test_one_and_two_donors_name_the_way_out():
    adata = patients([30])
    match = r"holds 1 donors \('d00'\) for 3 parts.*unit='cell'.*optimistic"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.split_donors(adata, "donor")
    adata = patients([30, 20])
    match = r"holds 2 donors.*fractions=\(0.5, 0, 0.5\).*unit='cell'"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.split_donors(adata, "donor")


def test_missing_donors_are_named():
    adata = patients([10] * 4)
    adata.obs.loc["cell7", "donor"] = None
    match = r"adata\.obs\['donor'\] is missing for 1 cells \('cell7'\)"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.split_donors(adata, "donor")


def test_a_class_that_cannot_be_in_train_is_named():
    adata = patients([20, 20, 20])
    adata.obs["y"] = adata.obs["donor"].map({"d00": "a", "d01": "b", "d02": "c"})
    match = r"Classes that cannot be in train.*only in 'd0\d'.*unit='cell'"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.split_donors(adata, "donor", labels_key="y")


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "match"),
    [
        (("patient",), {}, KeyError, "'patient' is not in adata.obs; it has 'donor', 'y'"),
        (("donor",), {"labels_key": "cd49d"}, KeyError, "'cd49d' is not in adata.obs"),
        (
            ("donor",),
            {"fractions": (0.7, 0.2, 0.2)},
            ValueError,
            "three shares .train, val, test.*sum 1",
        ),
        (("donor",), {"fractions": (0, 0.5, 0.5)}, ValueError, "train above 0"),
        (("donor",), {"fractions": (1.2, -0.1, -0.1)}, ValueError, "none negative"),
        (("donor",), {"fractions": (0.7, 0.3)}, ValueError, "three shares"),
        (("donor",), {"unit": "sample"}, ValueError, "unit must be one of 'donor', 'cell'"),
        (("donor",), {"labels_key": "one"}, ValueError, "at least two classes; found 'x'"),
    ],
)
def test_bad_input(args, kwargs, error, match):
    adata = patients([10] * 4, labels=[0.5] * 4)
    if kwargs.get("labels_key") == "one":
        adata.obs["one"] = "x"
    with unchanged(adata), pytest.raises(error, match=match):
        sb.pp.split_donors(adata, *args, **kwargs)


def test_cells_for_fewer_parts():
    adata = patients([2])
    match = "at least one cell per part; found 2 cells for 3 parts"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.split_donors(adata, "donor", unit="cell")


def test_a_view_is_refused():
    with pytest.raises(ValueError, match="view of another AnnData"):
        sb.pp.split_donors(patients([10] * 4)[:35], "donor")


@pytest.mark.parametrize("n_mixed", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_mixed_holds_donors_of_several_classes_out_where_there_are_any(
    n_mixed: int, seed: int
) -> None:
    donor = np.repeat([f"d{i}" for i in range(10)], 40)
    is_mixed = np.isin(donor, [f"d{i}" for i in range(n_mixed)])
    label = np.where(
        is_mixed,
        np.tile(["neg", "pos"], 200),
        np.where(np.isin(donor, ["d7", "d8", "d9"]), "pos", "neg"),
    )
    adata = AnnData(np.ones((400, 2), dtype="float32"))
    adata.obs["donor"], adata.obs["label"] = donor, label
    asked = {"labels_key": "label", "fractions": (0.6, 0.2, 0.2), "mixed": True, "rng": seed}
    sb.pp.split_donors(adata, "donor", **asked)
    assert adata.obs.loc[is_mixed, "split"].isin(["test"]).any()
    assert set(adata.obs.loc[adata.obs["split"] == "train", "label"]) == {"neg", "pos"}
    assert adata.uns["split"]["params"]["mixed"]


def test_mixed_without_classes_or_donors_is_refused() -> None:
    adata = AnnData(np.ones((40, 2), dtype="float32"))
    adata.obs["donor"] = np.repeat(list("abcd"), 10)
    with pytest.raises(ValueError, match="name labels_key, and unit='donor'"):
        sb.pp.split_donors(adata, "donor", mixed=True)
