"""From cells to patients: what is measured, what is predicted, and how sure that is."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.special import expit, logit

import scbert_cll as sc_cll
from scbert_cll.tl import patient_cd49d
from scbert_cll.tl._patient_cd49d.calibration import limits

MEASURED = ["n_cells", "n_measured", "pct_measured", "pct_measured_low", "pct_measured_high"]
MEASURED += ["bimodal", "clinical_class", "cd49d_call"]
PREDICTED = ["n_predicted", "pct_predicted", "pct_predicted_low", "pct_predicted_high"]
PREDICTED += ["cd49d_predicted", "in_training", "note"]


@pytest.fixture(scope="module")
def validated() -> AnnData:
    """Cells of ten donors with protein labels and out-of-fold predictions."""
    mdata = sc_cll.datasets.cll_toy(n_cells=1000, n_genes=250)
    sc_cll.pp.label_cd49d(
        mdata, normalize="clr_protein", cells=sc_cll.pp.cll_mask(mdata), donor_key="donor"
    )
    adata = mdata["rna"].copy()
    sc_cll.tl.cross_validate(adata, models=["gene_only", "majority"], n_repeats=2, n_bootstrap=2)
    return adata


@pytest.fixture
def scored(validated) -> AnnData:
    return validated.copy()


def donors_with(n: int, *, slope=1.0, noise=0.4, rng=0, n_cells=40) -> AnnData:
    """Cells whose predicted probabilities are off by an error of the donor, with a donor table as
    of pp.label_cd49d.
    """
    rng = np.random.default_rng(rng)
    truth = np.where(rng.random(n) < 0.6, rng.normal(-2.2, 0.8, n), rng.normal(1.5, 1.0, n))
    said = expit(slope * truth + rng.normal(0, noise, n))
    donor = np.repeat([f"D{i:03d}" for i in range(n)], n_cells)
    proba = np.clip(np.repeat(said, n_cells) + rng.uniform(-0.01, 0.01, n * n_cells), 0, 1)
    positive = np.round(expit(truth) * n_cells).astype(int)
    obs = pd.DataFrame(
        {"donor": donor, "cd49d_score": 0.5}, index=[f"c{i}" for i in range(n * n_cells)]
    )
    adata = AnnData(rng.poisson(1.0, (len(obs), 3)).astype(np.float32), obs=obs)
    adata.obsm["scbert_proba"] = pd.DataFrame(
        {"CD49d-": 1 - proba, "CD49d+": proba}, index=obs.index
    )
    table = pd.DataFrame(
        {"n_cells": n_cells, "pct_positive": 100 * positive / n_cells}, index=np.unique(donor)
    )
    table = table.assign(ci_low=np.nan, ci_high=np.nan, bimodal=False)
    call = pd.Categorical(np.where(table["pct_positive"] >= 30, "positive", "negative"))
    table["clinical_class"], table["cd49d_call"] = (
        call.rename_categories({"negative": "neg_homogeneous"}),
        call,
    )
    adata.uns["cd49d"] = {"donors": table}
    return adata


# -- what was measured
# ------------------------------------------------------------------------------------------------


def test_counts_are_summed_over_the_gated_cells(validated):
    patients = patient_cd49d(validated)
    gated = validated.obs["cd49d_score"].notna().to_numpy()
    assert patients.shape == (10, 250)
    assert not gated.all()
    for name in patients.obs_names:
        own = gated & (validated.obs["donor"] == name).to_numpy()
        np.testing.assert_array_equal(patients[name].X.ravel(), validated.X[own].sum(axis=0).A1)
        assert (
            patients.obs.loc[name, "n_cells"] == patients.obs.loc[name, "n_measured"] == own.sum()
        )
    pd.testing.assert_frame_equal(patients.var, validated.var)


def test_measured_part_is_the_donor_table(validated):
    obs = patient_cd49d(validated).obs
    table = sc_cll.get.donor_table(validated).loc[obs.index]
    pairs = {
        "pct_measured": "pct_positive",
        "pct_measured_low": "ci_low",
        "pct_measured_high": "ci_high",
    }
    for name, known in pairs.items():
        np.testing.assert_array_equal(obs[name], table[known])
    assert (obs["bimodal"] == table["bimodal"]).all()
    assert (obs["clinical_class"].astype(str) == table["clinical_class"].astype(str)).all()
    assert list(obs["clinical_class"].cat.categories) == list(
        table["clinical_class"].cat.categories
    )
    assert (obs["cd49d_call"].astype(str) == table["cd49d_call"].astype(str)).all()


def test_without_predictions_only_the_measured_part(validated):
    patients = patient_cd49d(validated)
    assert list(patients.obs) == MEASURED
    record = patients.uns["patient_cd49d"]
    assert record["predictions"].startswith(
        "none: 'scbert_proba' is not in adata.obsm, and no model= of"
    )
    assert "calibration" not in record


def test_cells_and_columns_of_the_users_choice(scored):
    scored.obs["centre"] = pd.Categorical(
        scored.obs["donor"].astype(str).map(lambda d: "A" if d < "D05" else "B")
    )
    scored.obs["age"] = scored.obs["donor"].cat.codes.astype(float)
    scored.obs.loc[scored.obs["donor"] == "D02", "age"] = np.nan
    mask = pd.Series(np.arange(scored.n_obs) % 2 == 0, scored.obs_names)[::-1]
    patients = patient_cd49d(scored, cells=mask, obs_keys=["centre", "age"])
    assert (
        patients.obs["n_cells"]
        == scored.obs["donor"][mask[scored.obs_names].to_numpy()].value_counts()[patients.obs_names]
    ).all()
    assert (
        patients.obs["centre"].astype(str) == np.where(patients.obs_names < "D05", "A", "B")
    ).all()
    assert isinstance(patients.obs["centre"].dtype, pd.CategoricalDtype)
    assert patients.obs["age"].isna().sum() == 1
    assert patients.obs.loc["D10", "age"] == 9


def test_the_input_stays_and_the_result_survives_a_file(scored, validated, tmp_path):
    patients = patient_cd49d(scored, model="gene_only")
    pd.testing.assert_frame_equal(scored.obs, validated.obs)
    assert set(scored.uns) == set(validated.uns)
    patients.write_h5ad(tmp_path / "patients.h5ad")
    back = ad.read_h5ad(tmp_path / "patients.h5ad")
    np.testing.assert_array_equal(back.X, patients.X)
    for name in patients.obs:
        one, other = (table[name].astype(object) for table in (back.obs, patients.obs))
        assert (one.isna() == other.isna()).all()
        assert one.dropna().tolist() == other.dropna().tolist()
    pd.testing.assert_frame_equal(
        *(table.uns["patient_cd49d"]["calibration"] for table in (back, patients)),
        check_dtype=False,
        check_index_type=False,
    )


# -- what is predicted
# ------------------------------------------------------------------------------------------------


def test_out_of_fold_predictions(validated):
    patients = patient_cd49d(validated, model="gene_only")
    obs = patients.obs
    assert list(obs) == MEASURED + PREDICTED
    expected = (
        sc_cll.get.out_of_fold(validated, model="gene_only")
        .groupby("donor", observed=True)["proba_CD49d+"]
        .mean()
    )
    np.testing.assert_allclose(obs["pct_predicted"], 100 * expected[obs.index], rtol=1e-5)
    assert (
        obs["n_predicted"]
        == validated.obs["cd49d"].notna().groupby(validated.obs["donor"], observed=True).sum()
    ).all()
    assert not obs["in_training"].any()
    assert (obs["note"] == "").all()
    known = obs["pct_measured"].between(obs["pct_predicted_low"], obs["pct_predicted_high"])
    assert known.sum() >= 8
    assert "out of fold by 'gene_only'" in patients.uns["patient_cd49d"]["predictions"]


def test_a_model_that_knows_nothing_gets_no_interval(validated):
    """The majority of the other donors falls where a donor is positive: its line goes down."""
    obs = patient_cd49d(validated, model="majority").obs
    assert obs["pct_predicted_low"].isna().all()
    assert obs["cd49d_predicted"].isna().all()
    assert obs["note"].str.contains("does not rise with the measured one").all()


def test_calls_where_the_interval_is_on_one_side():
    obs = patient_cd49d(donors_with(25, noise=0.2), split_key=None).obs
    positive, negative = (obs["cd49d_predicted"] == name for name in ("positive", "negative"))
    assert (obs.loc[positive, "pct_predicted_low"] >= 30).all()
    assert (obs.loc[negative, "pct_predicted_high"] < 30).all()
    spans = (obs["pct_predicted_low"] < 30) & (obs["pct_predicted_high"] >= 30)
    assert obs.loc[spans, "cd49d_predicted"].isna().all()
    assert positive.sum() >= 5
    assert negative.sum() >= 5
    assert list(obs["cd49d_predicted"].cat.categories) == ["negative", "positive"]
    assert obs["cd49d_predicted"].cat.ordered
    higher = patient_cd49d(donors_with(25, noise=0.2), split_key=None, positive_from=95).obs
    assert (higher["cd49d_predicted"] == "positive").sum() < positive.sum()


def test_donors_that_trained_the_model_are_marked_and_tell_nothing():
    adata = donors_with(12)
    donor = adata.obs["donor"]
    adata.obs["split"] = pd.Categorical(
        np.select([donor < "D003", donor < "D005"], ["train", "val"], "test")
    )
    patients = patient_cd49d(adata)
    obs, used = patients.obs, patients.uns["patient_cd49d"]["calibration"]
    assert obs["in_training"].tolist() == [True] * 5 + [False] * 7
    assert set(used["donor"]) == set(obs.index[5:])
    assert obs["pct_predicted"].notna().all()
    assert obs["pct_predicted_low"].notna().tolist() == [False] * 5 + [True] * 7
    assert (
        obs["note"][:5] == "predicted by a model that learned from this donor: no interval"
    ).all()
    # a training donor with whatever truth changes nothing
    adata.uns["cd49d"]["donors"].loc["D000", "pct_positive"] = 77.0
    again = patient_cd49d(adata).obs
    pd.testing.assert_series_equal(again["pct_predicted_low"], obs["pct_predicted_low"])


def test_a_donor_tells_nothing_of_its_own_error():
    adata = donors_with(9)
    before = patient_cd49d(adata, split_key=None).obs
    adata.uns["cd49d"]["donors"].loc["D004", "pct_positive"] = 50.0
    after = patient_cd49d(adata, split_key=None).obs
    for name in ("pct_predicted_low", "pct_predicted_high"):
        changed = before[name] != after[name]
        assert not changed["D004"]
        assert changed.sum() == 8


@pytest.mark.parametrize(("n", "with_interval"), [(4, 0), (5, 5), (8, 8)])
def test_four_other_donors_are_needed(n, with_interval):
    obs = patient_cd49d(donors_with(n, noise=0.2), split_key=None).obs
    assert obs["pct_predicted_low"].notna().sum() == with_interval
    if not with_interval:
        assert (
            obs["note"]
            .eq(
                "3 other donors with a known truth that the model did not learn from, fewer "
                "than 4: no interval"
            )
            .all()
        )


def test_new_patients_without_protein_get_the_interval_of_the_others():
    adata = donors_with(10)
    new = ["D008", "D009"]
    adata.uns["cd49d"]["donors"] = adata.uns["cd49d"]["donors"].drop(new)
    adata.obs.loc[adata.obs["donor"].isin(new), "cd49d_score"] = np.nan
    obs = patient_cd49d(adata, split_key=None).obs
    assert obs.loc[new, "pct_measured"].isna().all()
    assert obs.loc[new, ["clinical_class", "cd49d_call", "bimodal"]].isna().all().all()
    assert obs.loc[new, "n_measured"].tolist() == [0, 0]
    assert obs.loc[new, "n_cells"].tolist() == [40, 40]
    assert obs.loc[new, "pct_predicted_low"].notna().all()


def test_donors_with_few_cells_get_no_interval_and_tell_nothing():
    adata = donors_with(8)
    keep = (adata.obs["donor"] != "D000") | (np.arange(adata.n_obs) < 5)
    patients = patient_cd49d(adata[keep].copy(), split_key=None)
    assert (
        patients.obs.loc["D000", "note"] == "5 cells with a prediction, fewer than 20: no interval"
    )
    assert "D000" not in set(patients.uns["patient_cd49d"]["calibration"]["donor"])


def test_folds_of_cells_leave_no_donor_unseen(scored):
    scored.uns["cv"]["params"]["scheme"] = "random_cell"
    obs = patient_cd49d(scored, model="gene_only").obs
    assert obs["in_training"].all()
    assert obs["pct_predicted_low"].isna().all()


def test_predictions_of_a_network(trained):
    adata, _, _ = trained
    patients = patient_cd49d(adata)
    split = (
        adata.obs.groupby("donor", observed=True)["split"].first().astype(str)[patients.obs_names]
    )
    assert (patients.obs["in_training"] == split.isin(["train", "val"])).all()
    assert patients.obs["pct_predicted"].between(0, 100).all()
    assert patients.obs["pct_predicted_low"].isna().all(), "one or two test donors tell no error"
    assert (
        patients.uns["patient_cd49d"]["predictions"] == "adata.obsm['scbert_proba'], class 'CD49d+'"
    )


# -- coverage
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "noise"), [(1.0, 0.5), (0.4, 0.3), (0.4, 0.8)])
@pytest.mark.parametrize("n", [4, 5, 6, 9, 20])
def test_intervals_cover_the_truth(n, slope, noise):
    rng = np.random.default_rng(n)
    inside, made = 0, 0
    for _ in range(800):
        truth = np.where(
            rng.random(n + 1) < 0.6, rng.normal(-2.5, 1, n + 1), rng.normal(1.5, 1.5, n + 1)
        )
        said = 0.3 + slope * truth + rng.normal(0, noise, n + 1)
        low, high = limits(said[0], said[1:], truth[1:])
        made += low == low
        inside += low <= expit(truth[0]) <= high
    assert made > 700
    assert inside / made > 0.92
    if n >= 6:
        assert inside / made < 0.98, "no wider than they must be"


def test_coverage_through_the_door():
    inside = []
    for seed in range(20):
        obs = patient_cd49d(
            donors_with(12, slope=0.6, noise=0.4, rng=seed, n_cells=60), split_key=None
        ).obs
        inside += (
            obs["pct_measured"]
            .between(obs["pct_predicted_low"], obs["pct_predicted_high"])
            .tolist()
        )
    assert 0.90 < np.mean(inside) < 0.99


def test_a_binomial_interval_would_not_cover():
    """What a naive interval over cells leaves out: the error that all cells of a donor share."""
    inside = []
    for seed in range(20):
        obs = patient_cd49d(
            donors_with(12, slope=0.6, noise=0.4, rng=seed, n_cells=60), split_key=None
        ).obs
        share = obs["pct_predicted"] / 100
        reach = 1.96 * np.sqrt(share * (1 - share) / obs["n_predicted"])
        inside += (obs["pct_measured"] / 100).between(share - reach, share + reach).tolist()
    assert np.mean(inside) < 0.8


def test_limits_are_those_of_the_regression_line():
    rng = np.random.default_rng(0)
    predicted = rng.normal(0, 1, 9)
    measured = 1 + 2 * predicted + rng.normal(0, 0.3, 9)
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    fitted = statsmodels.OLS(measured, statsmodels.add_constant(predicted)).fit()
    expected = fitted.get_prediction([[1.0, 0.7]]).summary_frame(alpha=0.05)[
        ["obs_ci_lower", "obs_ci_upper"]
    ]
    np.testing.assert_allclose(
        logit(limits(0.7, predicted, measured)), expected.to_numpy()[0], rtol=1e-9
    )


# -- what is refused
# --------------------------------------------------------------------------------------------------


def drop_table(adata):
    del adata.uns["cd49d"]["donors"]


def other_donors(adata):
    adata.uns["cd49d"]["params"]["donor_key"] = "batch"


def other_labels(adata):
    adata.uns["cv"]["params"]["labels_key"] = "cell_type"


def a_network(adata, **params):
    adata.obsm["scbert_proba"] = pd.DataFrame({"CD49d-": 0.5, "CD49d+": 0.5}, index=adata.obs_names)
    adata.uns["scbert"] = {"params": params}


ROWS = {
    "no labels": (
        lambda a: a.uns.pop("cd49d"),
        {},
        KeyError,
        "'cd49d' is not in adata.uns.*Run pp.label_cd49d first",
    ),
    "no donor table": (
        drop_table,
        {},
        KeyError,
        "Run pp.label_cd49d with donor_key= to get a donor table",
    ),
    "other donors": (
        other_donors,
        {},
        ValueError,
        (
            r"pp.label_cd49d \(key 'cd49d'\) has donor_key='batch', "
            r"here "
            r"it "
            r"is "
            r"'donor'"
        ),
    ),
    "no cross-validation": (
        lambda a: a.uns.pop("cv"),
        {"model": "gene_only"},
        KeyError,
        "'cv' is not in adata.uns.*Run tl.cross_validate first",
    ),
    "no such model": (
        lambda a: None,
        {"model": "scbert"},
        KeyError,
        "'scbert' is not in the models of",
    ),
    "other labels": (
        other_labels,
        {"model": "gene_only"},
        ValueError,
        (
            r"tl.cross_validate \(key 'cv'\) has labels_key='cell_type', "
            r"here "
            r"it "
            r"is "
            r"'cd49d'"
        ),
    ),
    "other labels of a network": (
        lambda a: a_network(a, labels_key="cell_type"),
        {},
        ValueError,
        r"The model of adata.obsm\['scbert_proba'\] has labels_key='cell_type', here it is 'cd49d'",
    ),
    "another split": (
        lambda a: a_network(a, split_key="fold"),
        {"split_key": None},
        ValueError,
        "has split_key='fold', here it is 'None'; pass the same to both",
    ),
    "no split": (
        a_network,
        {},
        KeyError,
        "'split' is not in adata.obs.*pass split_key=None if no donor of adata trained it",
    ),
    "an array": (
        lambda a: a.obsm.__setitem__("scbert_proba", np.ones((a.n_obs, 2))),
        {},
        TypeError,
        r"adata.obsm\['scbert_proba'\] must be a DataFrame, cells × classes.*found ndarray",
    ),
    "no counts": (
        lambda a: setattr(a, "X", a.X.log1p()),
        {},
        ValueError,
        "must hold raw counts.*It looks log-transformed",
    ),
    "a column of cells": (
        lambda a: None,
        {"obs_keys": ["cd49d_score"]},
        ValueError,
        (
            r"adata.obs\['cd49d_score'\] has several values in 10 donors \('D01', .*takes columns "
            r"with one value per donor"
        ),
    ),
    "a name that is taken": (
        lambda a: a.obs.__setitem__("bimodal", 1),
        {"obs_keys": ["bimodal"]},
        ValueError,
        "obs_keys names columns that are made here: 'bimodal'; rename them",
    ),
    "a percentage beyond 100": (
        lambda a: None,
        {"positive_from": 130},
        ValueError,
        "positive_from must be a number from 0 to 100",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_refused(row, scored):
    spoil, asked, error, sentence = ROWS[row]
    scored.uns["cd49d"] = dict(scored.uns["cd49d"])
    spoil(scored)
    with pytest.raises(error, match=sentence):
        patient_cd49d(scored, **asked)


def test_a_counted_cell_needs_a_donor(scored):
    scored.obs["donor"] = scored.obs["donor"].astype(object)
    scored.obs.loc[scored.obs_names[3], "donor"] = None
    with pytest.raises(ValueError, match=r"adata.obs\['donor'\] is missing for 1 cells"):
        patient_cd49d(scored, cells=np.ones(scored.n_obs, dtype=bool))
