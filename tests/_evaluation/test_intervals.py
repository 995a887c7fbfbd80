"""Tables of scores and their uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from scbert_cll._evaluation.bootstrap import resample
from scbert_cll._evaluation.intervals import OutOfFold, tables
from scbert_cll._evaluation.metrics import METRICS

# ---- tables
# --------------------------------------------------------------------------------------------------


def study(n_donors=8, n_classes=2, n_repeats=3, n=400, seed=0):
    """A weak baseline, a better one, and two arms, one of which is better still."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    donor = (
        None
        if n_donors == 0
        else np.array([f"p{i}" for i in range(n_donors)])[np.arange(n) % n_donors]
    )
    proba = {}
    for model, skill in {"majority": 0.0, "linear": 1.0, "scbert": 2.5, "small": 0.5}.items():
        z = rng.normal(size=(n_repeats, n, n_classes)) * (skill > 0)
        z[:, np.arange(n), y] += skill
        z *= 3 if model == "linear" else 1  # too sure of itself
        proba[model] = (np.exp(z) / np.exp(z).sum(2, keepdims=True)).astype(np.float32)
    classes = [f"c{i}" for i in range(n_classes)]
    return OutOfFold(classes, n_classes > 2, y, donor, proba, ["majority", "linear"])


def row(table, **where):
    found = table
    for key, value in where.items():
        found = found[found[key] == value]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def evaluated():
    return tables(study(), n_bootstrap=300, seed=0)


def test_tables_have_the_columns_of_the_contract(evaluated):
    assert evaluated.unit == "donor"
    assert evaluated.n_units == 8
    columns = {name: list(table.columns) for name, table in evaluated.tables.items()}
    assert columns == {
        "scores": ["model", "repeat", "metric", "value", "note"],
        "summary": [
            "model",
            "metric",
            "estimate",
            "low",
            "high",
            "interval",
            "sd_repeats",
            "n_repeats",
            "n_undefined",
            "chance",
            "note",
        ],
        "differences": ["metric", "model", "reference", "difference", "low", "high", "p", "note"],
        "per_class": [
            "model",
            "class",
            "n_cells",
            "prevalence",
            "precision",
            "recall",
            "precision_low",
            "precision_high",
            "recall_low",
            "recall_high",
            "note",
        ],
        "donors": [
            "model",
            "donor",
            "n_cells",
            "n_positive",
            "observed",
            "predicted",
            "observed_low",
            "observed_high",
            "predicted_low",
            "predicted_high",
            "observed_call",
            "predicted_call",
            "accuracy",
            "auroc",
            "note",
        ],
        "agreement": [
            "model",
            "n_donors",
            "n_agree",
            "share",
            "low",
            "high",
            "spearman",
            "mae",
            "note",
        ],
        "reliability": ["model", "bin", "n_cells", "predicted", "observed", "low", "high"],
    }
    assert {name: len(table) for name, table in evaluated.tables.items()} == {
        "scores": 4 * 3 * len(METRICS),
        "summary": 4 * len(METRICS),
        "differences": 3 * len(METRICS)
        + 1,  # nobody is the reference where no baseline has a value
        "per_class": 8,
        "donors": 32,
        "agreement": 4,
        "reliability": 46,  # the majority has one probability, and so one bin
    }


def test_estimates_lie_within_their_limits_and_repeats_are_averaged(evaluated):
    summary, scores = evaluated.tables["summary"], evaluated.tables["scores"]
    there = summary[summary["estimate"].notna()]
    assert (there["low"] <= there["estimate"]).all()
    assert (there["estimate"] <= there["high"]).all()
    assert set(there["interval"]) == {"bootstrap over donors"}
    values = scores[(scores["model"] == "linear") & (scores["metric"] == "auroc")]["value"]
    found = row(summary, model="linear", metric="auroc")
    assert found["estimate"] == pytest.approx(values.mean())
    assert found["sd_repeats"] == pytest.approx(values.std(ddof=1))
    assert found["chance"] == 0.5
    kappa = row(summary, model="linear", metric="kappa_quadratic")
    assert np.isnan(kappa["estimate"])
    assert kappa["interval"] == "none"
    assert kappa["note"] == "the classes are not ordered"


def test_models_are_compared_with_the_best_baseline_of_each_metric(evaluated):
    differences, summary = evaluated.tables["differences"], evaluated.tables["summary"]
    assert set(differences.loc[differences["metric"] == "auroc", "model"]) == {
        "majority",
        "scbert",
        "small",
    }
    best = row(differences, metric="macro_f1", model="scbert")
    assert best["reference"] == "linear"
    both = [row(summary, metric="macro_f1", model=m)["estimate"] for m in ("scbert", "linear")]
    assert best["difference"] == pytest.approx(both[0] - both[1])
    assert 0 < best["low"] < best["difference"] < best["high"]
    assert best["p"] == pytest.approx(1 / 301)
    # always the prior probability is badly discriminating and well calibrated
    assert row(differences, metric="ece", model="scbert")["reference"] == "majority"
    kappa = row(differences, metric="kappa_quadratic", model="scbert")
    assert np.isnan(kappa["difference"])
    assert kappa["note"] == "kappa_quadratic of every baseline is undefined"


def test_the_same_model_twice_differs_by_nothing():
    found = study()
    proba = {"linear": found.proba["linear"], "again": found.proba["linear"]}
    made = tables(
        OutOfFold(found.classes, False, found.y, found.donors, proba, ["linear"]),
        n_bootstrap=100,
        seed=1,
    )
    differences = made.tables["differences"].query("metric != 'kappa_quadratic'")
    assert (differences[["difference", "low", "high"]] == 0).all(axis=None)
    assert (differences["p"] == 1).all()


def test_order_of_cells_and_number_of_models_change_nothing(evaluated):
    found = study()
    order = np.random.default_rng(3).permutation(len(found.y))
    proba = {m: p[:, order] for m, p in found.proba.items() if m != "small"}
    made = tables(
        OutOfFold(
            found.classes, False, found.y[order], found.donors[order], proba, found.baselines
        ),
        n_bootstrap=300,
        seed=0,
    )
    for name in ("summary", "differences", "per_class", "donors", "agreement", "reliability"):
        whole = evaluated.tables[name].query("model != 'small'").reset_index(drop=True)
        pd.testing.assert_frame_equal(made.tables[name].reset_index(drop=True), whole, atol=1e-9)


def test_seeds_widen_the_interval():
    one, several = study(n_repeats=1, seed=4), study(n_repeats=6, seed=4)
    rng = np.random.default_rng(0)
    noisy = np.clip(several.proba["linear"] + rng.normal(0, 0.8, (6, 1, 1)) * [1, -1], 0.001, 0.999)
    noisy /= noisy.sum(2, keepdims=True)
    spread = {}
    for name, proba in {"one": several.proba["linear"], "noisy": noisy}.items():
        made = tables(
            OutOfFold(one.classes, False, several.y, several.donors, {"m": proba}, []),
            metrics=["accuracy"],
            n_bootstrap=300,
            seed=0,
        )
        spread[name] = made.tables["summary"].eval("high - low").item()
        assert made.tables["differences"].empty
    assert spread["noisy"] > 1.3 * spread["one"]
    alone = tables(one, metrics=["accuracy"], n_bootstrap=100, seed=0).tables["summary"]
    assert alone["note"].eq("one repeat: what differs between seeds is not in the interval").all()


@pytest.mark.parametrize("n_donors", [2, 4])
def test_few_donors_give_the_range_over_donors(n_donors):
    found = study(n_donors=n_donors)
    made = tables(found, n_bootstrap=50, seed=0)
    assert (made.unit, made.n_units) == ("donor", n_donors)
    summary = row(made.tables["summary"], model="linear", metric="accuracy")
    called = found.proba["linear"].argmax(2) == found.y
    own = [called[:, found.donors == d].mean() for d in np.unique(found.donors)]
    assert summary["interval"] == "range over donors"
    assert [summary["low"], summary["high"]] == pytest.approx([min(own), max(own)])
    assert f"{n_donors} donors, too few for a bootstrap" in summary["note"]
    assert made.tables["differences"]["p"].isna().all()


@pytest.mark.parametrize("n_donors", [0, 1])
def test_one_donor_or_none_draws_cells_and_says_what_that_means(n_donors):
    made = tables(study(n_donors=n_donors, n=120, n_repeats=1), n_bootstrap=200, seed=0)
    assert (made.unit, made.n_units) == ("cell", 120)
    summary = row(made.tables["summary"], model="linear", metric="auroc")
    assert summary["interval"] == "bootstrap over cells"
    assert "speaks of other cells of this donor, not of other patients" in summary["note"]
    assert summary["low"] < summary["estimate"] < summary["high"]
    assert len(made.tables["donors"]) == 4 * n_donors
    assert made.tables["agreement"]["note"].str.contains("donor").all()


def test_cells_are_drawn_within_their_class():
    y = np.repeat([0, 1, 2], [50, 9, 1])
    plan = resample(y, None, 2, 30, 0)
    for code, n in enumerate([50, 9, 1]):
        assert (plan.weights[:, y == code].sum(1) == n).all()
    assert (plan.repeats.sum(1) == 2).all()


def test_a_class_of_one_donor_leaves_draws_undefined_and_they_are_counted():
    found = study(n_classes=3, n_donors=6)
    y = np.where(found.donors == "p0", found.y, np.minimum(found.y, 1))
    made = tables(
        OutOfFold(found.classes, True, y, found.donors, found.proba, found.baselines),
        n_bootstrap=400,
        seed=0,
    )
    auroc, accuracy = (
        row(made.tables["summary"], model="linear", metric=m) for m in ("auroc", "accuracy")
    )
    assert 400 * (5 / 6) ** 6 * 0.7 < auroc["n_undefined"] < 400 * (5 / 6) ** 6 * 1.3
    assert f"undefined in {auroc['n_undefined']} of 400 draws" in auroc["note"]
    assert accuracy["n_undefined"] == 0
    rare = tables(
        OutOfFold(
            found.classes,
            True,
            np.where(np.arange(400) == 0, 2, found.y % 2),
            found.donors,
            found.proba,
            [],
        ),
        metrics=["macro_f1"],
        n_bootstrap=400,
        seed=0,
    )
    assert (rare.tables["summary"]["n_undefined"] > 0).all()


def test_a_class_that_most_draws_lack_gets_no_interval():
    y = np.array([0] * 390 + [1] * 10)
    donor = np.repeat(["a", "b", "c", "d", "e"], [100, 100, 100, 90, 10])
    proba = {"m": np.stack([1 - (p := np.linspace(0.01, 0.99, 400)), p], axis=1)[None]}
    range_ = tables(
        OutOfFold(["n", "p"], False, y[100:], donor[100:], {"m": proba["m"][:, 100:]}, []),
        n_bootstrap=99,
    )
    found = row(range_.tables["summary"], metric="auroc")
    assert found["interval"] == "none"
    assert found["note"] == "undefined in 4 of 4 donors"
    assert np.isnan(found["low"])


def test_a_repeat_without_predictions_is_left_out_and_named():
    found = study()
    proba = {m: p.copy() for m, p in found.proba.items()}
    proba["scbert"][1, :7] = np.nan
    proba["small"][:, 0] = np.nan
    made = tables(
        OutOfFold(found.classes, False, found.y, found.donors, proba, found.baselines),
        n_bootstrap=100,
        seed=0,
    )
    summary = made.tables["summary"]
    some = row(summary, model="scbert", metric="accuracy")
    said = "mean over the defined repeats; undefined in 1 of 3: no prediction for 7 of 400 cells"
    # and the draws that took this repeat three times
    assert some["note"] == f"{said}; undefined in {some['n_undefined']} of 100 draws"
    assert 0 < some["n_undefined"] < 12
    assert some["estimate"] == pytest.approx((proba["scbert"][[0, 2]].argmax(2) == found.y).mean())
    none = row(summary, model="small", metric="accuracy")
    assert np.isnan(none["estimate"])
    assert none["note"] == "no prediction for 1 of 400 cells"
    difference = row(made.tables["differences"], model="small", metric="accuracy")
    assert difference["note"] == "accuracy of the model is undefined"
    assert "1 of 3 repeats without predictions of all cells" in set(made.tables["donors"]["note"])
    assert "small" not in set(made.tables["reliability"]["model"])


def test_precision_and_recall_of_each_class(evaluated):
    found, table = study(), evaluated.tables["per_class"]
    called = found.proba["linear"].argmax(2)
    last = row(table, model="linear", **{"class": "c1"})
    assert last["recall"] == pytest.approx(np.mean([(c[found.y == 1] == 1).mean() for c in called]))
    assert last["precision"] == pytest.approx(
        np.mean([(found.y[c == 1] == 1).mean() for c in called])
    )
    assert last["precision_low"] < last["precision"] < last["precision_high"]
    never = row(table, model="majority", **{"class": "c1"})
    assert np.isnan(never["precision"])
    assert "precision undefined in 3 of 3 repeats: no cell is called this class" in never["note"]
    assert table.groupby("model")["prevalence"].sum().to_numpy() == pytest.approx(1)


@pytest.mark.parametrize("n_donors", [0, 3, 6])
def test_tables_survive_h5ad(tmp_path, n_donors):
    made = tables(study(n_donors=n_donors, n=60, n_repeats=1), n_bootstrap=20, seed=0)
    adata = AnnData(np.ones((2, 2), dtype=np.float32))
    adata.uns["cv"] = dict(made.tables)
    adata.write_h5ad(tmp_path / "cv.h5ad")
    back = read_h5ad(tmp_path / "cv.h5ad").uns["cv"]
    for name, table in made.tables.items():
        assert list(table.index) == [str(i) for i in range(len(table))]
        assert list(back[name].columns) == list(table.columns)
        pd.testing.assert_frame_equal(
            back[name], table, check_dtype=False, check_index_type=False, check_column_type=False
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"proba": {"a": np.ones((1, 4, 2)) / 2, "b": np.ones((1, 3, 2)) / 2}},
            "1 repeats × 4 cells × 2 .* in 'b'",
        ),
        ({"proba": {"a": np.ones((1, 4, 2))}}, "must sum to 1; .* 'a'"),
        ({"proba": {}}, "none of them 0"),
        ({"y": np.array([0, 1, 2, 0])}, "y must hold codes of at least two classes"),
        ({"y": np.array([0, 1, -1, 0])}, "none missing"),
        ({"donors": np.array(["p"])}, "the donor of each of 4 cells; found 1"),
        ({"baselines": ["b"]}, "Baselines without predictions: 'b'"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, match):
    good = {
        "classes": ["n", "p"],
        "ordered": False,
        "y": np.array([0, 1, 1, 0]),
        "donors": None,
        "baselines": ["a"],
    }
    good |= {"proba": {"a": np.ones((1, 4, 2)) / 2}}
    OutOfFold(**good)
    with pytest.raises(ValueError, match=match):
        OutOfFold(**good | change)


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match=r"A metric must be one of .*; found 'auc'"):
        tables(study(n=40), metrics=["auc"])
