from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

from scbert_cll import get


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


@pytest.mark.parametrize("function", [get.evaluation, get.out_of_fold])
def test_wants_an_anndata(function):
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        function(pd.DataFrame())
