"""The tables of mofaCLL, made up and real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbert_cll import datasets
from scbert_cll._survival.models import concordance, fit
from scbert_cll._survival.outcome import Outcome
from tests.datasets._files import SharedFile


def mofa(**changed: Any) -> dict[str, Any]:
    """Sixty patients as mofaCLL has them; those with mutated IGHV are treated later."""
    rng = np.random.default_rng(0)
    ighv = np.arange(60) % 2
    treated = rng.random(60) < np.where(ighv == 1, 0.4, 0.9)
    ttt = rng.exponential(np.where(ighv == 1, 4, 1)) + 0.1
    died = ~treated & (np.arange(60) % 7 == 0)
    survival = pd.DataFrame(
        {"patientID": [f"H{i}" for i in range(60)], "OS": ttt + treated, "died": died}
    )
    survival = survival.assign(TFT=ttt + 2, treatment=treated * 1.0, TTT=ttt, treatedAfter=treated)
    genetics = pd.DataFrame({"IGHV": ighv, "TP53": 0.0, "del17p": 0.0}, index=survival["patientID"])
    genetics.iloc[:4, 1:] = [[1, np.nan], [0, 1], [0, np.nan], [np.nan, np.nan]]
    return {"survival": survival, "genetics": genetics} | changed


def test_mofacll_columns() -> None:
    given = mofa(
        demographics=pd.DataFrame({"patientID": ["H0", "H1"], "age": [60, 70], "pretreat": [1, 0]})
    )
    obs = datasets.read_mofacll(**given).obs
    died, treated = (
        given["survival"]["died"].to_numpy(),
        given["survival"]["treatedAfter"].to_numpy(),
    )
    assert obs["treated"].tolist() == treated.astype(int).tolist()
    assert obs["died_untreated"].tolist() == (died & ~treated).astype(int).tolist()
    assert obs["IGHV"].cat.categories.tolist() == ["mutated", "unmutated"]
    assert obs["IGHV"].cat.ordered
    assert obs["IGHV"].tolist()[:2] == ["unmutated", "mutated"]
    np.testing.assert_array_equal(obs["TP53ab"][:5], [1, 1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(obs["pretreated"][:3], [1, 0, np.nan])
    assert not {"treatment", "treatedAfter", "pretreat", "patientID"} & set(obs)


def test_ever_treated_is_named_as_an_outcome() -> None:
    adata = datasets.read_mofacll(**mofa())
    outcomes = {"OS", "died", "TFT", "treated_ever", "TTT", "treated", "died_untreated"}
    assert set(adata.uns["cohort"]["outcomes"]) == outcomes
    assert adata.obs["treated_ever"].tolist() == mofa()["survival"]["treatment"].tolist()
    assert "pretreated" not in adata.obs


def test_ighv_in_letters() -> None:
    given = mofa()
    given["genetics"]["IGHV"] = np.where(given["genetics"]["IGHV"] == 1, "M", "U")
    assert (
        datasets.read_mofacll(**given).obs["IGHV"].tolist()
        == datasets.read_mofacll(**mofa()).obs["IGHV"].tolist()
    )
    at_once = given["survival"].assign(IGHV=given["genetics"]["IGHV"].to_numpy())
    assert datasets.read_mofacll(at_once).obs["IGHV"].tolist()[:2] == ["unmutated", "mutated"]


def test_expression_of_some_patients(tmp_path: Path) -> None:
    rna = pd.DataFrame({"H3": [1.0, 2], "H1": [3, 4], "X": [5, 6]}, index=["ITGA4", "CD38"])
    with pytest.warns(
        UserWarning, match=r"2 samples are in both tables.*'X'.* 58 that are only in the clinical"
    ):
        adata = datasets.read_mofacll(**mofa(expression=rna))
    assert adata.to_df().to_numpy().tolist() == [[1, 2], [3, 4]]
    assert adata.obs_names.tolist() == ["H3", "H1"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["cohort"]["only_in"]["genetics"].tolist() == []


def test_one_protein_for_each_symbol() -> None:
    proteome = pd.DataFrame(
        {"name": ["a", "b", "c", "d", "e"], "ensembl_gene_id": ["E1", "E1", "E1", "E2", "E3"]}
        | {"hgnc_symbol": ["TMPO", "TMPO", "TMPO", None, "ITGA4"]}
        | {"H0": [9.0, 5.0, 6.0, 1.0, np.nan], "H1": [np.nan, 5.0, 6.0, 1.0, 8.0]}
    )
    with pytest.warns(UserWarning, match="2 samples are in both"):
        adata = datasets.read_mofacll(**mofa(proteome=proteome))
    assert adata.var["protein"].to_dict() == {"TMPO": "c", "ITGA4": "e"}
    assert adata.var["ensembl"].tolist() == ["E1", "E3"]
    np.testing.assert_array_equal(adata.X, [[6, np.nan], [6, 8]])
    assert adata.uns["cohort"]["no_symbol"].tolist() == ["d"]
    assert adata.uns["cohort"]["other_proteins"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"genetics": mofa()["genetics"].assign(IGHV=lambda g: 1 - g["IGHV"])},
            ValueError,
            "IGHV looks exchanged.*In mofaCLL 1 is mutated",
        ),
        (
            {"genetics": mofa()["genetics"].replace({"IGHV": {0: 3}})},
            ValueError,
            (
                r"IGHV must be 1 "
                r"\(mutated\).*found "
                r"'3'"
            ),
        ),
        (
            {"survival": mofa()["survival"].assign(TTT=lambda s: s["TTT"] * 365)},
            ValueError,
            "'TTT' does not look like years",
        ),
        (
            {"survival": mofa()["survival"].drop(columns="treatedAfter")},
            KeyError,
            "survival table has no column 'treated'.*Export it from R",
        ),
        ({"survival": mofa()["survival"].assign(died=2)}, ValueError, "'died' must be 0"),
        (
            {"survival": mofa()["survival"].assign(patientID="H1")},
            ValueError,
            "Samples of the survival table must be unique",
        ),
        (
            {"proteome": pd.DataFrame({"H0": [1]}, index=["A"])},
            KeyError,
            "The proteome has no column 'name'",
        ),
        (
            {"expression": mofa()["genetics"], "proteome": mofa()["genetics"]},
            ValueError,
            "expression or proteome, not both",
        ),
    ],
)
def test_mofacll_that_is_not(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        datasets.read_mofacll(**mofa(**change))


@pytest.fixture(scope="module")
def mofacll(shared_file: SharedFile) -> ad.AnnData:
    return datasets.read_mofacll(
        shared_file("data/mofaCLL_survival.csv"), shared_file("data/mofaCLL_genetics.csv")
    )


@pytest.mark.realdata
def test_real_mofacll(mofacll: ad.AnnData) -> None:
    assert mofacll.shape == (276, 0)
    obs = mofacll.obs
    assert (obs["died"].sum(), obs["treated"].sum(), obs["died_untreated"].sum()) == (37, 131, 11)
    assert mofacll.uns["cohort"]["only_in"]["genetics"].tolist() == ["H346"]
    complete = obs[["TTT", "treated", "IGHV", "TP53ab", "trisomy12", "NOTCH1"]].dropna()
    complete = complete[complete["TTT"] > 0]
    assert (len(complete), complete["treated"].sum()) == (171, 88)
    mutated = (complete["IGHV"] == "mutated").astype(float)
    outcome = Outcome(complete["treated"].to_numpy(dtype=bool), complete["TTT"].to_numpy())
    assert concordance(outcome, -mutated.to_numpy()) == pytest.approx(0.634, abs=5e-4)
    columns = complete.drop(columns=["TTT", "treated"]).assign(IGHV=mutated).astype(float)
    ratios = np.exp(fit(outcome, columns).coef)
    assert ratios["IGHV"] < 0.6
    assert ratios["TP53ab"] > 1.5


@pytest.mark.realdata
def test_ever_treated_knows_the_outcome(mofacll: ad.AnnData) -> None:
    """Why it must never be a covariate of time to treatment: nobody who was treated lacks it."""
    obs = mofacll.obs.dropna(subset=["treated", "treated_ever"])
    table = pd.crosstab(obs["treated"], obs["treated_ever"])
    assert table.to_numpy().tolist() == [[119, 10], [0, 129]]


@pytest.mark.realdata
def test_real_proteomes(shared_file: SharedFile) -> None:
    files = [
        shared_file(f"data/mofaCLL_{name}")
        for name in ("survival.csv", "genetics.csv", "protein_log2.csv.gz")
    ]
    with pytest.warns(
        UserWarning, match=r"46 samples are in both tables; left out: 1 .* \('H346'\) and 230"
    ):
        adata = datasets.read_mofacll(files[0], files[1], proteome=files[2])
    assert adata.shape == (46, 4305)
    whole = pd.read_csv(files[2]).set_index("hgnc_symbol").loc["ITGA4"]
    assert whole.drop(["name", "ensembl_gene_id"]).notna().sum() == 25
    assert np.isfinite(adata[:, "ITGA4"].X).sum() == 24, "one of the 25 has no outcome"
    assert adata.var.loc["ITGA4", "ensembl"] == "ENSG00000115232"
    assert len(adata.uns["cohort"]["no_symbol"]) == 7
    assert len(adata.uns["cohort"]["other_proteins"]) == 4
