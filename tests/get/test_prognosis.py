from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from scbert_cll import get


@pytest.fixture
def prognosed() -> AnnData:
    """Parts of what tl.prognosis and tl.survival write."""
    adata = AnnData(obs=pd.DataFrame(index=["p1", "p2"]))
    survival = {
        "curves": pd.DataFrame({"group": ["low", "high"], "time": [0.0, 0.0]}, index=["0", "1"])
    }
    survival |= {
        "logrank": {"chi2": np.float64(3.2), "df": 1, "p": 0.07},
        "params": {"groupby": "x"},
    }
    cox = pd.DataFrame(
        {"model": ["score", "clinical", "clinical"], "variable": ["score", "IGHV", "TP53"]}
    )
    parts = {
        "cox": cox.rename(index=str),
        "flow": pd.DataFrame({"step": ["in the object"]}, index=["0"]),
    }
    parts |= {
        "power": {"n_events": np.int64(40), "underpowered": True},
        "notes": ["one"],
        "params": {"cut": "median"},
    }
    adata.uns["prognosis"] = parts | {"survival": survival}
    adata.uns["survival"] = survival
    return adata


class TestPrognosis:
    def test_tables_are_copies(self, prognosed: AnnData) -> None:
        table = get.prognosis(prognosed)
        assert table["variable"].tolist() == ["score", "IGHV", "TP53"]
        assert list(table.index) == [0, 1, 2]
        table["variable"] = ""
        assert get.prognosis(prognosed, "cox")["variable"].tolist() == ["score", "IGHV", "TP53"]

    def test_rows_of_models(self, prognosed: AnnData) -> None:
        assert get.prognosis(prognosed, model="clinical")["variable"].tolist() == ["IGHV", "TP53"]
        assert len(get.prognosis(prognosed, model=["score", "clinical"])) == 3
        with pytest.raises(
            KeyError, match=r"'all' is not in the column 'model' of .*'score', 'clinical'"
        ):
            get.prognosis(prognosed, model="all")
        with pytest.raises(ValueError, match=r"\['flow'\] is not by model; leave model= out"):
            get.prognosis(prognosed, "flow", model="score")

    def test_numbers_are_one_row_and_survive_a_file(self, prognosed: AnnData, tmp_path) -> None:
        assert get.prognosis(prognosed, "power").to_dict("records") == [
            {"n_events": 40, "underpowered": True}
        ]
        prognosed.write_h5ad(tmp_path / "a.h5ad")
        again = read_h5ad(tmp_path / "a.h5ad")
        assert get.prognosis(again, "power").to_dict("records") == [
            {"n_events": 40, "underpowered": True}
        ]
        assert get.prognosis(again)["variable"].tolist() == ["score", "IGHV", "TP53"]

    def test_survival_is_its_curves(self, prognosed: AnnData) -> None:
        pd.testing.assert_frame_equal(get.prognosis(prognosed, "survival"), get.survival(prognosed))

    def test_unknown(self, prognosed: AnnData) -> None:
        with pytest.raises(
            KeyError,
            match=r"'auc' is not in .* it has 'cox', 'flow', 'power', 'survival'. .*\['notes'\]",
        ):
            get.prognosis(prognosed, "auc")
        with pytest.raises(KeyError, match=r"Run tl.prognosis first"):
            get.prognosis(prognosed, key="other")


class TestSurvival:
    @pytest.mark.parametrize("key", ["survival", "prognosis"])
    def test_tables_of_either(self, prognosed: AnnData, key: str) -> None:
        assert get.survival(prognosed, key=key)["group"].tolist() == ["low", "high"]
        assert get.survival(prognosed, "logrank", key=key).to_dict("records") == [
            {"chi2": 3.2, "df": 1, "p": 0.07}
        ]

    def test_unknown(self, prognosed: AnnData) -> None:
        with pytest.raises(KeyError, match=r"'incidence' is not in .* it has 'curves', 'logrank'"):
            get.survival(prognosed, "incidence")
        with pytest.raises(KeyError, match=r"Run tl.survival or tl.prognosis first"):
            get.survival(prognosed, key="other")

    def test_without_times_there_are_no_curves(self, prognosed: AnnData) -> None:
        del prognosed.uns["prognosis"]["survival"]
        with pytest.raises(KeyError, match=r"Curves need times: name them with time_key="):
            get.survival(prognosed, key="prognosis")
