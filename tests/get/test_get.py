from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

import scbert_cll as sb
from scbert_cll import get

GENES = ["MALAT1", "RPL3", "LPL", "IL4R", "ITGA4"]
FAMILY_NAMES = ("IGHV1-69", "LPL", "CD38")


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
    adata.obs["cd49d"] = pd.Categorical(
        ["CD49d-", "CD49d+", None, "CD49d-", "CD49d+", "CD49d-"], ["CD49d-", "CD49d+"]
    )
    adata.obs["split"] = pd.Categorical(["train", "train", "val", "test", "test", "test"])
    adata.obs["scbert_pred"] = pd.Categorical(
        ["CD49d-", "CD49d+", "CD49d+", "CD49d+", "CD49d+", "CD49d-"]
    )
    adata.obs["scbert_score"] = np.linspace(0.5, 1, n, dtype=np.float32)
    positive = np.linspace(0, 1, n)
    proba = {"CD49d-": 1 - positive, "CD49d+": positive}
    adata.obsm["scbert_proba"] = pd.DataFrame(proba, adata.obs_names)
    donors = pd.DataFrame(
        {"n_cells": [3, 3], "pct_positive": [10.0, 60.0], "bimodal": [False, True]},
        index=["D1", "D2"],
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
        adata.varm["gene_attention"] = np.ones((len(GENES), 2))
        with pytest.raises(
            ValueError, match=r"must be a DataFrame of genes × groups.*found ndarray"
        ):
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
    pd.testing.assert_frame_equal(get.gene_attention(back), get.gene_attention(adata))
    pd.testing.assert_frame_equal(
        get.predictions(back, labels_key="cd49d"),
        get.predictions(adata, labels_key="cd49d"),
        check_categorical=False,
    )
    pd.testing.assert_frame_equal(get.donor_table(back), get.donor_table(adata))


@pytest.mark.parametrize(
    "function",
    [get.gene_attention, get.predictions, get.donor_table, get.evaluation, get.out_of_fold],
)
def test_wants_an_anndata(function):
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        function(pd.DataFrame())


# -- tl.cross_validate's results
# --------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(adata):
    """Two models, two repeats; c2 has no label."""
    adata = adata.copy()
    adata.obs["donor"] = pd.Categorical(["D1", "D1", "D2", "D2", "D3", "D3"])
    positive = {
        ("scbert", 0): [0.1, 0.9, np.nan, 0.2, 0.4, 0.3],
        ("scbert", 1): [0.2, 0.8, np.nan, 0.6, 0.9, 0.1],
        ("logistic_l2", 0): [0.3, 0.7, np.nan, 0.1, 0.6, 0.2],
        ("logistic_l2", 1): [0.3, 0.7, np.nan, 0.1, 0.6, 0.2],
    }
    columns = {}
    for (name, repeat), p in positive.items():
        columns[f"{name}|{repeat}|CD49d-"] = 1 - np.array(p, np.float32)
        columns[f"{name}|{repeat}|CD49d+"] = np.array(p, np.float32)
    adata.obsm["cv_proba"] = pd.DataFrame(columns, adata.obs_names)
    summary = pd.DataFrame(
        [
            ("scbert", "macro_f1", 0.7, ""),
            ("scbert", "brier", 0.2, ""),
            ("knn", "macro_f1", np.nan, "one class only"),
            ("knn", "brier", 0.3, ""),
            ("logistic_l2", "macro_f1", 0.8, ""),
            ("logistic_l2", "brier", 0.1, ""),
        ],
        columns=["model", "metric", "estimate", "note"],
    ).rename(index=str)
    adata.uns["cv"] = {
        "params": {"labels_key": "cd49d", "donor_key": "donor"},
        "classes": np.array(["CD49d-", "CD49d+"]),
        "ordered": True,
        "summary": summary,
        "folds": pd.DataFrame({"repeat": [0, 1], "fold": [0, 0]}, index=["0", "1"]),
        "seconds": pd.DataFrame(
            {"model": ["scbert", "knn"], "seconds": [2.0, 1.0]}, index=["0", "1"]
        ),
    }
    return adata


class TestEvaluation:
    def test_best_first_and_undefined_last(self, evaluated):
        table = get.evaluation(evaluated)
        assert table["metric"].tolist() == ["macro_f1"] * 3 + ["brier"] * 3
        assert table["model"].tolist() == [
            "logistic_l2",
            "scbert",
            "knn",
            "logistic_l2",
            "scbert",
            "knn",
        ]
        assert table.index.tolist() == list(range(6))

    def test_other_tables_keep_their_order(self, evaluated):
        assert get.evaluation(evaluated, table="seconds")["model"].tolist() == ["scbert", "knn"]
        pd.testing.assert_frame_equal(
            get.evaluation(evaluated, "seconds"), get.evaluation(evaluated, table="seconds")
        )

    def test_rows_asked_for(self, evaluated):
        table = get.evaluation(evaluated, metric="brier", model=["knn", "scbert"])
        assert table[["model", "estimate"]].to_numpy().tolist() == [["scbert", 0.2], ["knn", 0.3]]
        assert len(get.evaluation(evaluated, table="seconds", model="knn")) == 1

    def test_is_a_copy(self, evaluated):
        table = get.evaluation(evaluated, table="seconds")
        table["seconds"] = 0.0
        assert evaluated.uns["cv"]["seconds"]["seconds"].tolist() == [2.0, 1.0]

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            (
                {"key": "x"},
                KeyError,
                "'x' is not in adata.uns; it has.*'cv'.*Run tl.cross_validate first",
            ),
            (
                {"table": "x"},
                KeyError,
                r"'x' is not in adata.uns\['cv'\]; it has 'summary', 'folds', 'seconds'",
            ),
            ({"table": "params"}, KeyError, "'params' is not in"),
            (
                {"metric": "auroc"},
                KeyError,
                "'auroc' is not in the column 'metric' of.*'macro_f1', 'brier'",
            ),
            (
                {"model": ["svm"]},
                KeyError,
                "'svm' is not in the column 'model' of.*'scbert', 'knn', 'logistic_l2'",
            ),
            (
                {"table": "seconds", "metric": "brier"},
                ValueError,
                (
                    r"\['seconds'\] is not by metric; leave metric= out. Its columns are 'model', "
                    r"'seconds'"
                ),
            ),
            (
                {"table": "folds", "model": "knn"},
                ValueError,
                r"\['folds'\] is not by model; leave model= out",
            ),
        ],
    )
    def test_errors(self, evaluated, arguments, error, match):
        with pytest.raises(error, match=match):
            get.evaluation(evaluated, **arguments)


class TestOutOfFold:
    def test_rows(self, evaluated):
        table = get.out_of_fold(evaluated)
        assert list(table) == [
            "donor",
            "label",
            "model",
            "repeat",
            "pred",
            "proba_CD49d-",
            "proba_CD49d+",
        ]
        assert table.index.name == "cell"
        assert table.groupby(["model", "repeat"], sort=False).size().to_dict() == {
            ("scbert", 0): 5,
            ("scbert", 1): 5,
            ("logistic_l2", 0): 5,
            ("logistic_l2", 1): 5,
        }
        assert "c2" not in table.index

    def test_one_run(self, evaluated):
        table = get.out_of_fold(evaluated, model="scbert", repeat=1)
        assert table.index.tolist() == ["c0", "c1", "c3", "c4", "c5"]
        assert table["donor"].tolist() == ["D1", "D1", "D2", "D3", "D3"]
        assert table["pred"].tolist() == ["CD49d-", "CD49d+", "CD49d+", "CD49d+", "CD49d-"]
        assert (table["pred"] == table["label"]).tolist() == [True, True, False, True, True]
        np.testing.assert_allclose(table["proba_CD49d+"], [0.2, 0.8, 0.6, 0.9, 0.1], rtol=1e-6)

    def test_donors_unknown(self, evaluated):
        evaluated.uns["cv"]["params"]["donor_key"] = "none"
        assert "donor" not in get.out_of_fold(evaluated)

    def test_class_whose_column_is_spelled_otherwise(self, evaluated):
        """No column of a file may have a slash in its name."""
        classes = ["CD4/CD8", "B|other"]
        evaluated.obs["cd49d"] = evaluated.obs["cd49d"].cat.rename_categories(classes)
        evaluated.uns["cv"]["classes"] = np.array(classes)
        old = evaluated.obsm["cv_proba"]
        spelled = {"CD49d-": "CD4∕CD8", "CD49d+": "B|other"}
        names = [f"{c.rpartition('|')[0]}|{spelled[c.rpartition('|')[2]]}" for c in old]
        evaluated.obsm["cv_proba"] = old.set_axis(names, axis=1)
        table = get.out_of_fold(evaluated, model="scbert", repeat=0)
        assert table["pred"].tolist() == ["CD4/CD8", "B|other", "CD4/CD8", "CD4/CD8", "CD4/CD8"]
        np.testing.assert_allclose(table["proba_B|other"], [0.1, 0.9, 0.2, 0.4, 0.3], rtol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"key": "x"}, "'x' is not in adata.uns.*Run tl.cross_validate first"),
            (
                {"model": "svm"},
                (
                    r"'svm' is not in the models of adata.obsm\['cv_proba'\]; it has 'scbert', "
                    r"'logistic_l2'"
                ),
            ),
            ({"repeat": 5}, r"Repeat 5 is not in adata.obsm\['cv_proba'\]; it has '0', '1'"),
        ],
    )
    def test_errors(self, evaluated, arguments, match):
        with pytest.raises(KeyError, match=match):
            get.out_of_fold(evaluated, **arguments)

    def test_probabilities_are_gone(self, evaluated):
        del evaluated.obsm["cv_proba"]
        with pytest.raises(
            KeyError, match=r"'cv_proba' is not in adata.obsm.*Run tl.cross_validate first"
        ):
            get.out_of_fold(evaluated)


def test_evaluation_is_the_same_from_disk(evaluated, tmp_path):
    evaluated.write_h5ad(tmp_path / "a.h5ad")
    back = read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(get.evaluation(back), get.evaluation(evaluated))
    pd.testing.assert_frame_equal(get.out_of_fold(back), get.out_of_fold(evaluated))


@pytest.fixture(scope="module")
def planted() -> AnnData:
    """Two planted genes under names of families, and ITGA4 among the planted."""
    adata = sb.datasets.planted_donors(n_genes=100, n_planted=12, rng=0)
    first = adata.var_names[adata.var["truth"] != 0][:3]
    adata.var_names = (
        adata.var_names.to_series().replace(dict(zip(first, FAMILY_NAMES, strict=True))).to_numpy()
    )
    sb.tl.signature(adata, groupby="label", gene="CD38")
    return adata


class TestSignature:
    def test_lists_the_selected_genes_with_the_clearest_first(self, planted: AnnData) -> None:
        table = get.signature(planted)
        assert table["selected"].all()
        assert table["q"].is_monotonic_increasing
        assert len(get.signature(planted, selected=False)) == planted.uns["signature"]["n_tested"]
        assert get.signature(planted, n_top=3)["gene"].tolist() == table["gene"].tolist()[:3]

    def test_families_are_named_and_can_be_left_out(self, planted: AnnData) -> None:
        table = get.signature(planted).set_index("gene")
        assert table.loc[list(FAMILY_NAMES), "family"].tolist() == ["immunoglobulin", "", "marker"]
        assert "IGHV1-69" not in set(get.signature(planted, drop_families="immunoglobulin")["gene"])
        assert set(get.signature(planted, drop_families=True)["family"]) == {""}
        arms = planted.uns["signature"]["arms"].set_index("arm")
        assert arms.loc["all genes", "n_selected"] == len(table)
        assert arms.loc["without both", "n_selected"] == len(
            get.signature(planted, drop_families=True)
        )
        assert "CD38" in arms.loc["without donor and technical genes", "genes"].split(", ")
        assert "CD38" not in arms.loc["without the marker's gene", "genes"].split(", ")

    def test_what_is_not_there_is_refused(self, planted: AnnData) -> None:
        with pytest.raises(KeyError, match=r"Run tl.signature first"):
            get.signature(planted, key="other")
        with pytest.raises(ValueError, match="drop_families"):
            get.signature(planted, drop_families="HB")

    def test_an_empty_signature_has_no_rows(self) -> None:
        adata = sb.datasets.planted_donors(n_cells=30, n_genes=60, rng=0)
        sb.tl.signature(adata, groupby="label", min_cells=29)
        assert len(get.signature(adata)) == 0
        assert {"gene", "sign", "q"} <= set(get.signature(adata))


@pytest.mark.parametrize(
    ("gene", "family"),
    [
        ("IGHV3-23", "immunoglobulin"),
        ("IGHD", "immunoglobulin"),
        ("IGHMBP2", ""),
        ("HLA-DRA", "HLA"),
        ("RPS4Y1", "sex"),
        ("RPS6", "ribosomal"),
        ("RPS6KA1", ""),
        ("RPLP0", "ribosomal"),
        ("MRPL12", ""),
        ("MT-CO1", "mitochondrial"),
        ("MT1X", ""),
    ],
)
def test_family_of_a_symbol(gene: str, family: str) -> None:
    adata = sb.datasets.planted_donors(n_genes=60, rng=0)
    adata.var_names = [gene, *adata.var_names[1:]]
    sb.tl.signature(adata, groupby="label", min_detected=0.0)
    assert get.signature(adata, selected=False).set_index("gene").loc[gene, "family"] == family


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
