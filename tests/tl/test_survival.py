"""tl.survival: who is compared, who is left out, and what is refused."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import scbert_cll as sc_cll
from tests._make import cohort, unchanged

OUTCOME = {"time_key": "TTT", "event_key": "treated"}


@pytest.fixture(scope="module")
def clinical() -> AnnData:
    """Patients of a simulated cohort, without genes; IGHV and TP53 are missing for some."""
    return AnnData(obs=cohort(300).obs)


@pytest.fixture
def patients() -> AnnData:
    """40 patients in order of their time, in two groups, one of which goes earlier."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.exponential(2, 40)) + 0.1
    obs = pd.DataFrame(
        {"TTT": time, "treated": rng.permutation(40) % 4 > 0},
        index=[f"P{i:02d}" for i in range(40)],
    )
    obs["group"] = np.where(rng.random(40) < np.linspace(0.9, 0.1, 40), "b", "a")
    obs["entry"], obs["died"] = 0.0, 0
    return AnnData(obs=obs)


def run(adata: AnnData, groupby: str = "group", **options: Any) -> dict[str, Any]:
    return sc_cll.tl.survival(adata, groupby, **OUTCOME | options, copy=True).uns["survival"]


# -- what is found
# --------------------------------------------------------------------------------------------------


def test_what_is_planted_is_found(clinical) -> None:
    """Time to treatment by IGHV, which has a hazard ratio of 2.2 and raises the programme; age has
    none.
    """
    found = run(clinical, "IGHV", covariates=["age", "pretreated"])
    assert found["notes"] == []
    row = found["groups"].set_index("group").loc["unmutated"]
    assert row["ci_low"] > 1.8
    assert row["p"] < 1e-8
    assert found["logrank"]["p"] < 1e-8
    assert found["groups"]["median"].isna().tolist() == [
        True,
        False,
    ]  # half of the mutated are not treated in time
    cox = found["cox"].set_index(["model", "variable"]).loc["group + covariates"]
    assert cox.loc["IGHV: unmutated", "ci_low"] > 1.8
    assert cox.loc["pretreated", "ci_low"] > 1
    assert cox.loc["age", "ci_low"] < 1 < cox.loc["age", "ci_high"]


def test_competing_deaths(clinical) -> None:
    """1 − Kaplan–Meier says more than there are; test and ratio censor the deaths, and so stay as
    they are.
    """
    plain, found = (run(clinical, "Binet", competing_key=key) for key in (None, "died_untreated"))
    assert "incidence" not in plain
    pd.testing.assert_frame_equal(found["curves"], plain["curves"])
    pd.testing.assert_frame_equal(
        found["groups"].drop(columns="follow_up"), plain["groups"].drop(columns="follow_up")
    )
    assert found["logrank"] == plain["logrank"]
    last = found["incidence"].pivot_table("incidence", "group", "cause", "last")
    km = 1 - found["curves"].groupby("group")["survival"].last()
    assert (last["event"] < km - 0.005).all()
    assert (last.sum(axis=1) <= 1).all()


def test_delayed_entry_counts_from_the_sample(clinical) -> None:
    """With the clock at diagnosis, nobody is at risk before the sample; without entry the time
    until then is immortal.
    """
    clock = {"time_key": "TTFT", "event_key": "treated"}
    delayed = run(clinical, "Binet", **clock, entry_key="years_to_sample", groups=["A", "B"])
    naive = run(clinical, "Binet", **clock, groups=["A", "B"])
    first = delayed["curves"].groupby("group").first()
    entry = (
        clinical.obs[clinical.obs["TTFT"].notna()]
        .groupby("Binet", observed=True)["years_to_sample"]
        .min()
    )
    assert first["time"].to_dict() == entry[["A", "B"]].to_dict()
    assert (first["survival"] == 1).all()
    assert (delayed["groups"]["median"] < naive["groups"]["median"]).all()
    assert delayed["curves"]["at_risk"].max() < naive["curves"]["at_risk"].max()


def test_strata_have_baselines_of_their_own(patients) -> None:
    """Two cohorts with other shares of the groups, of which one goes later: pooled the groups
    differ, within cohorts they do not.
    """
    rng = np.random.default_rng(1)
    n = 400
    late = rng.random(n) < 0.5
    obs = pd.DataFrame(
        {
            "TTT": rng.exponential(np.where(late, 8.0, 1.0)) + 0.01,
            "treated": 1,
            "cohort": np.where(late, "x", "y"),
        }
    )
    obs["group"] = np.where(rng.random(n) < np.where(late, 0.8, 0.2), "b", "a")
    adata = AnnData(obs=obs.rename(index=str))
    with pytest.warns(UserWarning, match="changes with time") as said:
        pooled = run(adata)
    assert [str(w.message) for w in said] == pooled["notes"]
    within = run(adata, strata=["cohort"])
    assert pooled["logrank"]["p"] < 1e-10
    assert within["logrank"]["p"] > 0.05
    assert within["groups"]["ci_low"].iloc[1] < 1 < within["groups"]["ci_high"].iloc[1]
    pd.testing.assert_frame_equal(within["curves"], pooled["curves"])


# -- who is compared
# --------------------------------------------------------------------------------------------------


def test_everybody_is_accounted_for(patients) -> None:
    obs = patients.obs
    obs["treated"], obs["group"] = obs["treated"].astype(float), obs["group"].astype(object)
    obs.iloc[:2, obs.columns.get_loc("TTT")] = np.nan
    obs.iloc[2, obs.columns.get_loc("treated")] = np.nan
    obs.iloc[3, obs.columns.get_loc("TTT")] = 0
    obs.iloc[4, obs.columns.get_loc("group")] = None
    obs.iloc[5:8, obs.columns.get_loc("group")] = "c"
    obs["age"] = np.where(np.arange(40) < 12, np.nan, np.random.default_rng(0).normal(60, 9, 40))
    obs["sex"] = np.arange(40) % 2
    with pytest.warns(UserWarning, match="3 coefficients and .* events, fewer than 10 each"):
        found = run(patients, groups=["b", "a"], covariates=["age", "sex"], min_group=3)
    flow = found["flow"].set_index("step")
    assert flow["n_left_out"].to_dict() == {
        "in the object": 0,
        "treated is missing": 1,
        "TTT is missing": 2,
        "no time at risk (TTT is 0)": 1,
        "group is missing": 1,
        "another group of group": 3,
        "age is missing (model with covariates only)": 4,
    }
    assert flow["n"].tolist() == [40, 39, 37, 36, 35, 32, 28]
    assert flow["n_events"].iloc[-2] == found["groups"]["n_events"].sum()
    assert found["groups"]["group"].tolist() == ["b", "a"]
    assert found["groups"]["n"].sum() == 32
    assert found["cox"].groupby("model")["n"].first().to_dict() == {
        "group": 32,
        "group (complete cases)": 28,
        "group + covariates": 28,
    }


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (lambda v: pd.Categorical(v, ["b", "a", "unused"]), ["b", "a"]),
        (lambda v: v == "b", ["False", "True"]),
        (lambda v: np.where(np.arange(40) == 7, np.nan, v == "b"), ["0", "1"]),
        (lambda v: (v == "b").astype(int), ["0", "1"]),
        (lambda v: pd.Categorical((v == "b").astype(float)), ["0", "1"]),
        (lambda v: pd.array(v == "b").astype("boolean"), ["False", "True"]),
    ],
)
def test_columns_that_are_groups(patients, values, names) -> None:
    expected = run(patients)
    patients.obs["other"] = values(patients.obs["group"].to_numpy())
    found = run(patients, "other")
    assert found["groups"]["group"].tolist() == names
    if found["flow"]["n_left_out"].sum() == 0:
        assert found["logrank"]["chi2"] == pytest.approx(expected["logrank"]["chi2"])
    again = run(patients, "other", groups=names[::-1])
    assert again["groups"]["ratio"].iloc[1] == pytest.approx(
        1 / found["groups"]["ratio"].iloc[1], rel=1e-4
    )


def test_a_group_without_events_is_told(patients) -> None:
    patients.obs["group"] = np.where(patients.obs["treated"], patients.obs["group"], "never")
    with pytest.warns(UserWarning, match="'never' has no events, so it has no hazard ratio"):
        found = run(patients)
    row = found["groups"].set_index("group").loc["never"]
    assert (row["n_events"], row["n"]) == (0, 10)
    assert np.isnan(row["ratio"])
    assert found["logrank"]["df"] == 2


def test_what_is_written_survives_a_file(clinical, tmp_path) -> None:
    adata = clinical.copy()
    sc_cll.tl.survival(
        adata,
        "Binet",
        **OUTCOME,
        competing_key="died_untreated",
        covariates=["age"],
        strata=["pretreated"],
    )
    adata.write_h5ad(tmp_path / "a.h5ad")
    held, back = adata.uns["survival"], ad.read_h5ad(tmp_path / "a.h5ad").uns["survival"]
    for name in ("curves", "groups", "incidence", "cox", "flow"):
        pd.testing.assert_frame_equal(
            back[name],
            held[name],
            check_dtype=False,
            check_column_type=False,
            check_index_type=False,
        )
    assert back["logrank"] == held["logrank"]
    assert dict(back["params"])["competing_key"] == "died_untreated"
    assert back["params"]["entry_key"] == "none"
    assert list(back["params"]["groups"]) == ["A", "B", "C"]


# -- what is refused
# --------------------------------------------------------------------------------------------------


def put(column: str, value: Any, rows: Any = slice(None)) -> Any:
    def change(adata: AnnData) -> None:
        values = adata.obs[column].astype(object)
        values.iloc[rows] = value
        adata.obs[column] = values.infer_objects()

    return change


def nothing(adata: AnnData) -> None:
    """The call is the mistake."""


def a_patient_twice(adata: AnnData) -> None:
    adata.obs_names = ["P01", *adata.obs_names[1:]]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    ("change", "options", "error", "sentence"),
    [
        (
            put("TTT", -1.0, [3]),
            {},
            ValueError,
            (
                r"'TTT' has 1 times that are negative or infinite: "
                r".*'P03'"
            ),
        ),
        (
            put("treated", 2, [3]),
            {},
            ValueError,
            (
                r"\['treated'\] must be 0 \(no event, censored\) or "
                r"1 "
                r"\(event\); "
                r"found "
                r"'2'"
            ),
        ),
        (
            put("treated", "yes", [3]),
            {},
            ValueError,
            (
                r"found 'yes' in 'P03'. Say what the words "
                r"mean, "
                r".*\['treated'\].map\({'yes': "
                r"1, "
                r"'no': 0}\)"
            ),
        ),
        (
            put("TTT", "2 years", [3]),
            {},
            ValueError,
            (
                r"'TTT' must hold times as numbers; found '2 years' in "
                r"'P03'. "
                r"Dates "
                r"become "
                r"times"
            ),
        ),
        (
            put("TTT", pd.to_timedelta(9, "D")),
            {},
            ValueError,
            (
                r"found '9 days 00:00:00' in .* differences of dates; in years they "
                r"are "
                r".dt.days "
                r"/ "
                r"365.25"
            ),
        ),
        (
            put("TTT", True),
            {},
            ValueError,
            (
                "'TTT' must hold times as numbers, and holds True and False; is it the "
                "column "
                "of "
                "the "
                "event"
            ),
        ),
        (
            put("TTT", 4000.0, [3]),
            {},
            ValueError,
            "'TTT' does not look like years: .* maximum 4000, .* time_unit='days'",
        ),
        (
            nothing,
            {"time_key": "treated"},
            ValueError,
            "columns of the outcome and strata must be unique; .* 'treated'",
        ),
        (
            nothing,
            {"groupby": ["group"]},
            TypeError,
            "Expected one name of adata.obs, found list: 'group'",
        ),
        (
            put("treated", 0),
            {},
            ValueError,
            "All 40 patients are censored: nobody has the event 'treated'",
        ),
        (
            put("treated", 0, [0, 1]),
            {"groups": ["b", "a"], "min_group": 50},
            ValueError,
            "needs 50 patients .* 'b' has",
        ),
        (put("TTT", np.nan), {}, ValueError, "No patient has an outcome"),
        (a_patient_twice, {}, ValueError, "1 samples are in adata more than once: 'P01'"),
        (
            put("entry", 99.0, [4]),
            {"entry_key": "entry"},
            ValueError,
            (
                r"1 patients leave \('TTT'\) before "
                r"they "
                r"enter "
                r".* "
                r"'P04'"
            ),
        ),
        (
            put("died", 1),
            {"competing_key": "died"},
            ValueError,
            "patients have both 'treated' and 'died'",
        ),
        (
            put("group", "a"),
            {},
            ValueError,
            (
                r"at least two groups; adata.obs\['group'\] or groups "
                r"has "
                r"'a'"
            ),
        ),
        (put("group", None), {}, ValueError, "at least two groups; .* has none"),
        (
            put("group", "c", [3]),
            {},
            ValueError,
            "Every group needs 5 patients with an outcome; 'c' has 1. Merge groups",
        ),
        (
            put("treated", 0, slice(12, 40)),
            {"groups": ["a", "c"]},
            ValueError,
            "has no group 'c'; it has 'a', 'b'",
        ),
        (nothing, {"groups": ["a", "a"]}, ValueError, "groups names a group twice: 'a', 'a'"),
        (nothing, {"groups": ["a"]}, ValueError, "at least two groups; .* has 'a'"),
        (
            nothing,
            {"groups": "a"},
            TypeError,
            "groups must be a list of groups, the reference first; found the text 'a'",
        ),
        (
            nothing,
            {"groupby": "other"},
            KeyError,
            "'other' is not in adata.obs; .* Name the column of the groups to compare",
        ),
        (
            nothing,
            {"groupby": "treated"},
            ValueError,
            "groupby='treated' is part of the outcome, its strata or the covariates",
        ),
        (
            nothing,
            {"strata": ["group"]},
            ValueError,
            "groupby='group' is part of the outcome, its strata",
        ),
        (
            nothing,
            {"covariates": ["group"]},
            ValueError,
            "groupby='group' is part of the outcome, its strata or the cov",
        ),
        (
            nothing,
            {"groupby": "score"},
            ValueError,
            (
                r"40 different numbers, and groups are .* "
                r"tl.prognosis\(score_key='score'\)"
            ),
        ),
        (
            nothing,
            {"groupby": "half"},
            ValueError,
            (
                r"'half'\] holds 2 different numbers, and "
                r"groups "
                r"are "
                r"categories"
            ),
        ),
        (
            nothing,
            {"groupby": "name"},
            ValueError,
            (
                r"has 40 groups \('P00', .* at most 10 can be "
                r"compared. "
                r"Name "
                r"those"
            ),
        ),
        (
            nothing,
            {"covariates": "score"},
            TypeError,
            (
                r"covariates must be a list .* found the "
                r"text "
                r"'score'. "
                r"Write "
                r"\['score'\]"
            ),
        ),
        (
            nothing,
            {"strata": "half"},
            TypeError,
            (
                r"strata must be a list .* found the text 'half'. "
                r"Write "
                r"\['half'\]"
            ),
        ),
        (
            nothing,
            {"covariates": ["treated"]},
            ValueError,
            "'treated' is an outcome, so it cannot explain one",
        ),
        (nothing, {"covariates": ["flat"]}, ValueError, "'flat' is the same in all 40 patients"),
        (
            nothing,
            {"min_group": 0},
            ValueError,
            "min_group must be a whole number from 1 to inf; found 0",
        ),
        (
            nothing,
            {"time_key": "OS"},
            KeyError,
            "'OS' is not in adata.obs; .* Put the outcome into obs",
        ),
    ],
)
def test_bad_input_is_named(patients, change, options, error, sentence) -> None:
    obs = patients.obs
    obs["score"], obs["half"] = np.linspace(-1, 1, 40), np.arange(40) % 2 / 2
    obs["name"], obs["flat"] = obs.index.to_numpy(dtype=object), 1.0
    change(patients)
    with unchanged(patients), pytest.raises(error, match=sentence):
        sc_cll.tl.survival(patients, **{"groupby": "group"} | OUTCOME | options)


def test_events_of_the_others_do_not_count(patients) -> None:
    patients.obs["group"] = np.where(patients.obs["treated"], "treated", patients.obs["group"])
    with pytest.raises(ValueError, match="All 10 patients are censored"):
        run(patients, groups=["a", "b"], min_group=1)


def test_other_objects_are_refused(patients) -> None:
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        sc_cll.tl.survival(patients.obs, "group", **OUTCOME)
    with pytest.raises(TypeError, match=r'found MuData. Take one modality, e.g. mdata\["rna"\]'):
        sc_cll.tl.survival(
            MuData({"rna": sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"]}),
            "group",
            **OUTCOME,
        )
    with pytest.raises(ValueError, match="Expected at least one patient"):
        sc_cll.tl.survival(patients[:0], "group", **OUTCOME)


# -- real patients
# --------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_unmutated_ighv_is_treated_earlier(shared_file) -> None:
    files = [shared_file(f"data/mofaCLL_{name}.csv") for name in ("survival", "genetics")]
    adata = sc_cll.datasets.read_mofacll(*files)
    found = run(adata, "IGHV", competing_key="died_untreated", covariates=["TP53", "trisomy12"])
    row = found["groups"].set_index("group").loc["unmutated"]
    assert row["ratio"] > 1
    assert row["ci_low"] > 2
    assert row["p"] < 1e-5
    assert found["logrank"]["p"] < 1e-5
    assert found["flow"]["n"].iloc[0] == 276
    assert row["n"] + found["groups"]["n"].iloc[0] == 250
    cox = found["cox"].set_index(["model", "variable"]).loc["group + covariates"]
    assert (cox.loc[["IGHV: unmutated", "TP53"], "ci_low"] > 1).all()
