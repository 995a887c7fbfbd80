from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

from scbert_cll import get


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
            (
                {"pred_key": "x"},
                KeyError,
                "'x' is not in adata.obs.*Run tl.finetune or tl.predict first",
            ),
            ({"labels_key": "x"}, KeyError, "'x' is not in adata.obs.*cd49d"),
            (
                {"split": "test", "split_key": "x"},
                KeyError,
                "'x' is not in adata.obs.*pp.split_donors",
            ),
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
    pd.testing.assert_frame_equal(
        get.predictions(back, labels_key="cd49d"),
        get.predictions(adata, labels_key="cd49d"),
        check_categorical=False,
    )
    pd.testing.assert_frame_equal(get.donor_table(back), get.donor_table(adata))


@pytest.mark.parametrize("function", [get.predictions, get.donor_table])
def test_wants_an_anndata(function):
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        function(pd.DataFrame())
