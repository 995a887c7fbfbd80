from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

from scbert_cll import get


class TestGeneAttention:
    def test_rows(self, adata):
        table = get.gene_attention(adata)
        assert list(table) == ["group", "gene", "attention", "reference", "difference", "rank"]
        assert table.groupby("group", sort=False).size().to_dict() == {
            "low": 5,
            "mid": 5,
            "high": 5,
        }
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
        assert get.gene_attention(adata, group="mid", n_top=99).shape[0] == adata.n_vars

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
            (
                {"key": "other"},
                KeyError,
                "'other' is not in adata.varm.*gene_attention.*Run tl.gene_attention",
            ),
            ({"group": "none"}, KeyError, "'none' is not in adata.varm.*'low', 'mid', 'high'"),
            ({"reference": "none"}, KeyError, "'none' is not in adata.varm"),
            ({"group": "low", "reference": "low"}, ValueError, "'low' is its own reference"),
            (
                {"sort_by": "rank"},
                ValueError,
                "sort_by must be one of 'difference', 'attention'; found 'rank'",
            ),
            ({"n_top": 0}, ValueError, "n_top must be at least 1; found 0"),
        ],
    )
    def test_errors(self, adata, arguments, error, match):
        with pytest.raises(error, match=match):
            get.gene_attention(adata, **arguments)

    def test_wants_the_table(self, adata):
        adata = adata.copy()
        adata.varm["gene_attention"] = np.ones((adata.n_vars, 2))
        with pytest.raises(
            ValueError, match=r"must be a DataFrame of genes × groups.*found ndarray"
        ):
            get.gene_attention(adata)


def test_the_same_from_disk(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(get.gene_attention(back), get.gene_attention(adata))


def test_wants_an_anndata():
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        get.gene_attention(pd.DataFrame())
