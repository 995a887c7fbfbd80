from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from scbert_cll import get

GENES = ["MALAT1", "RPL3", "LPL", "IL4R", "ITGA4"]


@pytest.fixture
def adata():
    n = 6
    adata = AnnData(
        np.ones((n, len(GENES)), np.float32),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=GENES),
    )
    attention = {
        "low": [0.5, 0.2, 0.05, 0.2, 0.05],
        "mid": [0.5, 0.2, 0.1, 0.1, 0.1],
        "high": [0.5, 0.2, 0.2, 0.05, 0.05],
    }
    adata.varm["gene_attention"] = pd.DataFrame(attention, adata.var_names)
    adata.obs["cd49d"] = pd.Categorical(["CD49d-", "CD49d+", None, "CD49d-", "CD49d+", "CD49d-"], ["CD49d-", "CD49d+"])
    adata.obs["split"] = pd.Categorical(["train", "train", "val", "test", "test", "test"])
    adata.obs["scbert_pred"] = pd.Categorical(["CD49d-", "CD49d+", "CD49d+", "CD49d+", "CD49d+", "CD49d-"])
    adata.obs["scbert_score"] = np.linspace(0.5, 1, n, dtype=np.float32)
    positive = np.linspace(0, 1, n)
    proba = {"CD49d-": 1 - positive, "CD49d+": positive}
    adata.obsm["scbert_proba"] = pd.DataFrame(proba, adata.obs_names)
    donors = pd.DataFrame(
        {"n_cells": [3, 3], "pct_positive": [10.0, 60.0], "bimodal": [False, True]}, index=["D1", "D2"]
    )
    adata.uns["cd49d"] = {"donors": donors, "thresholds": {"all": 1.0}}
    return adata


@pytest.fixture(autouse=True)
def unchanged(adata):
    before = adata.copy()
    yield
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    for key in before.varm:
        pd.testing.assert_frame_equal(adata.varm[key], before.varm[key])
    assert set(adata.uns) == set(before.uns)


class TestGeneAttention:
    def test_rows(self, adata):
        table = get.gene_attention(adata)
        assert list(table) == ["group", "gene", "attention", "reference", "difference", "rank"]
        assert table.groupby("group", sort=False).size().to_dict() == {"low": 5, "mid": 5, "high": 5}
        for group, rows in table.groupby("group"):
            assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
            assert rows["difference"].is_monotonic_decreasing
            truth = adata.varm["gene_attention"]
            np.testing.assert_allclose(rows["attention"], truth.loc[rows["gene"], group])
            others = truth.drop(columns=group).mean(axis=1)
            np.testing.assert_allclose(rows["reference"], others[rows["gene"]])
            np.testing.assert_allclose(rows["difference"], rows["attention"] - rows["reference"])

    def test_reference(self, adata):
        table = get.gene_attention(adata, reference="low")
        assert table["group"].unique().tolist() == ["mid", "high"]
        first = table[(table["group"] == "high") & (table["rank"] == 1)].iloc[0]
        assert first["gene"] == "LPL"
        assert first["difference"] == pytest.approx(0.15)

    def test_group_and_top(self, adata):
        table = get.gene_attention(adata, group=["high", "low"], n_top=1)
        assert table[["group", "gene"]].to_numpy().tolist() == [["high", "LPL"], ["low", "IL4R"]]
        assert get.gene_attention(adata, group="mid", n_top=99).shape[0] == len(GENES)

    def test_sorted_by_attention(self, adata):
        table = get.gene_attention(adata, group="high", sort_by="attention")
        assert table["attention"].is_monotonic_decreasing
        assert table["gene"].iloc[0] == "MALAT1"

    @pytest.mark.parametrize("exclude", [["MALAT1", "RPL3", "not measured"], r"^(MALAT|RPL)"])
    def test_exclude(self, adata, exclude):
        table = get.gene_attention(adata, group="high", sort_by="attention", exclude=exclude)
        assert set(table["gene"]) == {"LPL", "IL4R", "ITGA4"}
        assert table.iloc[0][["gene", "rank"]].tolist() == ["LPL", 1]

    def test_one_group_has_no_difference(self, adata):
        adata = adata.copy()
        adata.varm["gene_attention"] = adata.varm["gene_attention"][["low"]]
        with pytest.raises(ValueError, match=r"one group, 'low'.*sort_by='attention'"):
            get.gene_attention(adata)
        table = get.gene_attention(adata, sort_by="attention")
        assert table["difference"].isna().all()
        assert table["gene"].iloc[0] == "MALAT1"

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"key": "other"}, KeyError, "'other' is not in adata.varm.*gene_attention.*Run tl.gene_attention"),
            ({"group": "none"}, KeyError, "'none' is not in adata.varm.*'low', 'mid', 'high'"),
            ({"reference": "none"}, KeyError, "'none' is not in adata.varm"),
            ({"group": "low", "reference": "low"}, ValueError, "'low' is its own reference"),
            ({"sort_by": "rank"}, ValueError, "sort_by must be one of 'difference', 'attention'; found 'rank'"),
            ({"n_top": 0}, ValueError, "n_top must be at least 1; found 0"),
        ],
    )
    def test_errors(self, adata, arguments, error, match):
        with pytest.raises(error, match=match):
            get.gene_attention(adata, **arguments)

    def test_wants_the_table(self, adata):
        adata = adata.copy()
        adata.varm["gene_attention"] = np.ones((len(GENES), 2))
        with pytest.raises(ValueError, match=r"must be a DataFrame of genes × groups.*found ndarray"):
            get.gene_attention(adata)


class TestPredictions:
    def test_columns(self, adata):
        table = get.predictions(adata, labels_key="cd49d")
        assert list(table) == ["split", "label", "pred", "score", "proba_CD49d-", "proba_CD49d+"]
        assert table.index.equals(adata.obs_names.rename("cell"))
        assert table["label"].isna().tolist() == [False, False, True, False, False, False]
        np.testing.assert_array_equal(table["proba_CD49d+"], adata.obsm["scbert_proba"]["CD49d+"])

    def test_split(self, adata):
        assert get.predictions(adata, split="test").index.tolist() == ["c3", "c4", "c5"]

    def test_other_predictions(self, adata):
        adata = adata.copy()
        adata.obs["logreg_pred"] = adata.obs["scbert_pred"]
        del adata.obs["split"]
        assert list(get.predictions(adata, pred_key="logreg_pred")) == ["pred"]

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"pred_key": "x"}, KeyError, "'x' is not in adata.obs.*Run tl.finetune or tl.predict first"),
            ({"labels_key": "x"}, KeyError, "'x' is not in adata.obs.*cd49d"),
            ({"split": "test", "split_key": "x"}, KeyError, "'x' is not in adata.obs.*pp.split_donors"),
            ({"split": "holdout"}, ValueError, "no cell in 'holdout'"),
        ],
    )
    def test_errors(self, adata, arguments, error, match):
        with pytest.raises(error, match=match):
            get.predictions(adata, **arguments)


class TestDonorTable:
    def test_largest_percentage_first(self, adata):
        table = get.donor_table(adata)
        assert table.index.tolist() == ["D2", "D1"]
        table["n_cells"] = 0
        assert (adata.uns["cd49d"]["donors"]["n_cells"] == 3).all()

    def test_errors(self, adata):
        with pytest.raises(KeyError, match=r"'x' is not in adata.uns.*Run pp.label_cd49d first"):
            get.donor_table(adata, key="x")
        adata = adata.copy()
        del adata.uns["cd49d"]["donors"]
        with pytest.raises(KeyError, match=r"'donors' is not in adata.uns\['cd49d'\].*donor_key="):
            get.donor_table(adata)


def test_the_same_from_disk(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(get.gene_attention(back), get.gene_attention(adata))
    pd.testing.assert_frame_equal(
        get.predictions(back, labels_key="cd49d"), get.predictions(adata, labels_key="cd49d"), check_categorical=False
    )
    pd.testing.assert_frame_equal(get.donor_table(back), get.donor_table(adata))


@pytest.mark.parametrize("function", [get.gene_attention, get.predictions, get.donor_table])
def test_wants_an_anndata(function):
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        function(pd.DataFrame())
