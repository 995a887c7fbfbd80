"""Readers of cohorts: tables of the user's own, mofaCLL's, and series matrices of GEO with their
download.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll import datasets, pp
from scbert_cll._survival.models import concordance, fit
from scbert_cll._survival.outcome import Outcome
from scbert_cll.datasets import _download_geo_series

SharedFile = Callable[[str], Path]
RNA = '"","P1","P2","P3"\n"ITGA4",5.5,NA,7.25\n"NA",1,2,3\n'
SEEN = '"","years","dead","group"\n"P3",1.5,TRUE,"a"\n"P1",2.5,FALSE,"b"\n"P2",4,TRUE,NA\n'
OUTCOME = {"time_key": "years", "event_key": "dead"}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def clinical(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"P{i + 1}" for i in range(n)])


def read(**columns: Any) -> ad.AnnData:
    """Patients without expression, whose outcome is in `t` and `e`."""
    return datasets.read_cohort(None, clinical(**columns), time_key="t", event_key="e")


# -- tables of the user's own
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_joins_by_name_and_keeps_what_is_missing(tmp_path: Path, ending: str) -> None:
    rna, seen = written(tmp_path, f"rna.{ending}", RNA), written(tmp_path, f"seen.{ending}", SEEN)
    adata = datasets.read_cohort(rna, seen, **OUTCOME)
    assert adata.obs_names.tolist() == ["P1", "P2", "P3"]
    assert adata.var_names.tolist() == ["ITGA4", "NA"], "a gene may be called NA"
    np.testing.assert_array_equal(adata.X, [[5.5, 1], [np.nan, 2], [7.25, 3]])
    assert adata.obs["years"].tolist() == [2.5, 4.0, 1.5]
    assert adata.obs["dead"].tolist() == [0, 1, 1]
    assert adata.obs["dead"].dtype == np.int64
    assert adata.obs["group"].isna().tolist() == [False, True, False]
    record = adata.uns["cohort"]
    assert record["n_samples"] == 3
    assert record["outcome"] == {
        "n": 3,
        "n_events": 2,
        "n_time_zero": 0,
        "median": 2.5,
        "maximum": 4.0,
    }
    assert record["params"] == {
        "time_key": "years",
        "event_key": "dead",
        "unit": "years",
        "transpose": False,
    }
    assert record["files"]["sha256"].tolist() == [
        hashlib.sha256(p.read_bytes()).hexdigest() for p in (rna, seen)
    ]


def test_survives_a_file(tmp_path: Path) -> None:
    mixed = clinical(
        years=[1.0, np.nan],
        dead=[True, None],
        text=["x", "y"],
        odd=[True, None],
        when=["a/b", None],
    )
    adata = datasets.read_cohort(None, mixed.rename(columns={"when": "a/b"}), **OUTCOME)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert again.shape == (2, 0)
    assert again.obs.columns.tolist() == ["years", "dead", "text", "odd", "a_b"]
    np.testing.assert_array_equal(again.obs[["dead", "odd"]], [[1, 1], [np.nan, np.nan]])
    assert again.uns["cohort"]["outcome"]["n"] == 1
    assert len(again.uns["cohort"]["files"]) == 0


def test_samples_of_one_table_are_left_out_and_told(tmp_path: Path) -> None:
    seen = SEEN.replace('"P2"', '"P9"')
    with pytest.warns(
        UserWarning,
        match=r"2 samples are in both .* 1 that are only in the expression table "
        r"\('P2'\).*\('P9'\)",
    ):
        adata = datasets.read_cohort(
            written(tmp_path, "a.csv", RNA),
            written(tmp_path, "b.csv", seen),
            event_key="dead",
            time_key="years",
        )
    assert adata.obs_names.tolist() == ["P1", "P3"]
    assert adata.uns["cohort"]["only_expression"].tolist() == ["P2"]
    assert adata.uns["cohort"]["only_clinical"].tolist() == ["P9"]
    assert adata.uns["cohort"]["outcome"]["n"] == 2


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (RNA.replace(",", "\t"), {}),
        (RNA.replace(",", ";"), {}),
        (RNA.replace(",", "|"), {"sep": "|"}),
        (RNA.replace('"",', "", 1).replace(",", "\t"), {}),  # write.table: no name over the names
        ("\ufeff" + RNA.replace("\n", "\r\n"), {}),  # Excel
        (',ITGA4,NA\n"P1",5.5,1\nP2,,2\nP3,7.25,3\n', {"transpose": True}),
    ],
)
def test_forms_of_a_table(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    seen = pd.read_csv(written(tmp_path, "seen.csv", SEEN), index_col=0)
    adata = datasets.read_cohort(written(tmp_path, "rna.txt", text), seen, **options)
    np.testing.assert_array_equal(adata.to_df().to_numpy(), [[5.5, 1], [np.nan, 2], [7.25, 3]])
    assert adata.var_names.tolist() == ["ITGA4", "NA"]


def test_names_are_text(tmp_path: Path) -> None:
    rna = written(tmp_path, "rna.csv", "gene,01005,1e3\nA,1,2\n")
    seen = written(tmp_path, "seen.csv", "id,patient,t\n1,01005,3\n2,1e3,4\n")
    with pytest.raises(ValueError, match=r"'patient' has 1 of them: sample_key='patient'"):
        datasets.read_cohort(rna, written(tmp_path, "bad.csv", "id,patient\n1,x\n2,1e3\n"))
    bare = datasets.read_cohort(None, seen)
    assert bare.obs_names.tolist() == ["1", "2"]
    adata = datasets.read_cohort(rna, pd.read_csv(seen, dtype=str), sample_key="patient")
    assert adata.obs_names.tolist() == ["01005", "1e3"]
    assert adata.obs.columns.tolist() == ["id", "t"]


@pytest.mark.parametrize(("unit", "per_year"), [("years", 1), ("months", 12), ("days", 365.25)])
def test_times_become_years(unit: str, per_year: float) -> None:
    seen = clinical(
        t=np.array([0, 1.5, 8]) * per_year, e=[1, 0, 1], start=np.array([0, 0.5, 7]) * per_year
    )
    adata = datasets.read_cohort(
        None, seen, time_key="t", event_key="e", entry_key="start", unit=unit
    )
    np.testing.assert_allclose(adata.obs["t"], [0, 1.5, 8])
    np.testing.assert_allclose(adata.obs["start"], [0, 0.5, 7])
    assert adata.uns["cohort"]["outcome"]["n_time_zero"] == 1


@settings(max_examples=30)
@given(st.lists(st.floats(0.2, 36), min_size=2, max_size=20).filter(lambda t: max(t) > 1))
def test_a_wrong_unit_is_noticed(years: list[float]) -> None:
    seen = clinical(years=years, days=np.array(years) * 365.25, e=[1] * len(years))
    with pytest.raises(
        ValueError, match=r"does not look like years: median .* unit='days' \(then the longest is"
    ):
        datasets.read_cohort(None, seen, time_key="days", event_key="e")
    with pytest.raises(
        ValueError, match=r"does not look like days: median .* unit='years' \(then the longest is"
    ):
        datasets.read_cohort(None, seen, time_key="years", event_key="e", unit="days")


@pytest.mark.parametrize(
    ("values", "meanings", "expected"),
    [
        ([True, False], None, [1, 0]),
        (["T", "F"], None, [1, 0]),
        (["true", " FALSE"], None, [1, 0]),
        (["1", "0"], None, [1, 0]),
        ([1.0, 0.0], None, [1, 0]),
        ([1.0, np.nan], None, [1, np.nan]),
        ([1, 2], {1: 0, 2: 1}, [0, 1]),
        ([1.0, np.nan], {1: 0, 2: 1}, [0, np.nan]),
        (["dead", "alive"], {"dead": 1, "alive": 0}, [1, 0]),
        ([0, 1], {0: 1, 1: 0}, [1, 0]),  # a column that says who is censored
        (pd.Categorical(["yes", None]), {"yes": True, "no": False}, [1, np.nan]),
    ],
)
def test_words_of_an_event(
    values: Any, meanings: dict[Any, int] | None, expected: list[float]
) -> None:
    adata = datasets.read_cohort(None, clinical(e=values), event_key="e", event_values=meanings)
    np.testing.assert_array_equal(adata.obs["e"].to_numpy(), expected)
    assert adata.obs["e"].dtype == (np.float64 if np.isnan(expected).any() else np.int64)
    assert adata.uns["cohort"]["outcome"] == {
        "n": np.isfinite(expected).sum(),
        "n_events": np.nansum(expected),
    }


def test_a_competing_event_has_its_own_words() -> None:
    seen = clinical(t=[1, 2, 3], e=["treated", "watched", "watched"], d=[False, True, False])
    words = {"treated": 1, "watched": 0}
    keys = {"time_key": "t", "event_key": "e", "competing_key": "d", "event_values": words}
    assert datasets.read_cohort(None, seen, **keys).obs["d"].tolist() == [0, 1, 0]
    censored = keys | {
        "event_values": {0: 1, 1: 0}
    }  # the event's column says who is censored; the other one does not
    turned = datasets.read_cohort(None, seen.assign(e=[0, 1, 1]), **censored)
    assert turned.obs[["e", "d"]].to_numpy().tolist() == [[1, 0], [0, 1], [0, 0]]
    seen["d"] = ["watched", "treated", "watched"]
    assert datasets.read_cohort(None, seen, **keys).obs["d"].tolist() == [0, 1, 0]


def test_columns_that_pandas_calls_nullable() -> None:
    """Missing values of another kind than NaN become NaN."""
    whole, yes = pd.array([1, None], dtype="Int64"), pd.array([True, None], dtype="boolean")
    obs = read(t=whole, e=yes, n=whole, y=yes, s=pd.array(["a", None], dtype="string")).obs
    np.testing.assert_array_equal(
        obs[["t", "e", "n", "y"]].to_numpy(dtype=float), [[1] * 4, [np.nan] * 4]
    )
    assert {obs[key].dtype for key in "teny"} == {np.dtype(np.float64)}
    assert obs["s"].cat.categories.tolist() == ["a"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"t": [1, -2], "e": [0, 1]},
            r"'t' has 1 times that are negative or infinite: 'P2' \(first -2\)",
        ),
        ({"t": [1, np.inf], "e": [0, 1]}, "negative or infinite: 'P2'"),
        (
            {"t": ["2001-01-02", "1"], "e": [0, 1]},
            (
                r"must hold times as numbers; found '2001-01-02' in 'P1'.*\(end - start\).dt.days "
                r"/ 365.25"
            ),
        ),
        (
            {"t": [0.01, 0.02], "e": [0, 1]},
            r"median 0.015, maximum 0.02, that is 0.02 years. Check the dates",
        ),
        (
            {"t": [1, 2], "e": [1, 2]},
            r"found '2'.*if they are R's \(2 is the event\): event_values={1: 0, 2: 1}",
        ),
        (
            {"t": [1, 2], "e": ["dead", "0"]},
            r"must be 0 \(censored\) or 1 \(event\); found 'dead', e.g. in 'P1'",
        ),
        ({"t": [1, 2], "e": [0.5, 1]}, r"found '0.5'"),
    ],
)
def test_outcomes_that_are_none(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**columns)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"time_key": "t"}, ValueError, "time_key='t' needs event_key="),
        ({"entry_key": "s", "event_key": "e"}, ValueError, "entry_key='s' needs time_key="),
        ({"competing_key": "e2"}, ValueError, "competing_key='e2' needs time_key="),
        (
            {"time_key": "t", "event_key": "t"},
            ValueError,
            "columns of the outcome must be unique.*'t'",
        ),
        (
            {"time_key": "no", "event_key": "e"},
            KeyError,
            "'no' is not in the clinical table; it has 't', 'e'",
        ),
        ({"sample_key": "no"}, KeyError, "'no' is not in the clinical table.*sample_key="),
        ({"sample_key": "e"}, ValueError, "Samples of the clinical table must be unique.*'1'"),
        (
            {"unit": "weeks"},
            ValueError,
            "unit must be one of 'years', 'months', 'days'; found 'weeks'",
        ),
        (
            {"time_key": "t", "event_key": "e", "entry_key": "late"},
            ValueError,
            "1 patients leave .* 'P2'",
        ),
        (
            {"time_key": "t", "event_key": "e", "competing_key": "e2"},
            ValueError,
            "have both 'e' and 'e2': 'P1'",
        ),
        (
            {"event_key": "e", "event_values": {1: 2}},
            ValueError,
            "event_values must map the file's words to 0",
        ),
        (
            {"event_key": "e", "event_values": {"dead": 1}},
            ValueError,
            "found '1'.*add them to event_values",
        ),
        (
            {"sha256": {"rna.csv": "0"}},
            ValueError,
            r"sha256 must map names of files \(none\).*found 'rna.csv'",
        ),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    seen = clinical(t=[1, 2, 3], e=[1, 1, 0], e2=[1, 0, 0], late=[0, 2.5, 1])
    with pytest.raises(error, match=message):
        datasets.read_cohort(None, seen, **options)


@pytest.mark.parametrize(
    ("rna", "message"),
    [
        (
            RNA.replace("P2", "P1"),
            "Samples of the expression table must be unique; found more than once: 'P1'",
        ),
        (RNA.replace('"NA"', '"ITGA4"'), r"genes\) must be unique; found more than once: 'ITGA4'"),
        (RNA.replace('"NA"', '""'), "needs names without blanks"),
        (RNA.replace('"P2"', '""'), "1 samples of the expression table have no name"),
        (RNA.replace("7.25", "high"), "must hold numbers; 'P3' has e.g. 'high'"),
        (
            RNA.replace(",", ";").replace("7.25", "7,25"),
            "has numbers with decimal commas, and others with points",
        ),
        (RNA.replace("7.25", "Inf"), "holds infinite values in 'P3'"),
        (
            RNA.replace("P", "Q"),
            "No sample is in both tables. The expression has 'Q1', 'Q2', 'Q3'.*Use the same names",
        ),
        (
            "g,ITGA4,CD38\nP1,1,2\nP2,1,2\n",
            (
                r"other direction of the expression table: "
                r"transpose=True"
            ),
        ),
        ("no table\n", "no comma, tab or semicolon in its first line"),
        ("a,b\nP1,1,2,3\n", "has 2 names of columns, but 4 fields"),
    ],
)
def test_expression_that_is_none(tmp_path: Path, rna: str, message: str) -> None:
    seen = pd.DataFrame({"x": [1, 2, 3]}, index=["P1", "P2", "P3"])
    with pytest.raises(ValueError, match=message):
        datasets.read_cohort(written(tmp_path, "rna.csv", rna), seen)


def test_columns_of_one_name(tmp_path: Path) -> None:
    path = written(tmp_path, "seen.csv", "id,a,a\nP1,1,2\n")
    with pytest.raises(
        ValueError, match="Columns of the clinical table must be unique; found more than once: 'a'"
    ):
        datasets.read_cohort(None, path)


def test_values_that_are_no_logarithms_are_told() -> None:
    rna = pd.DataFrame({"P1": [900.0, 3], "P2": [12, 0]}, index=["A", "B"])
    with pytest.warns(
        UserWarning, match=r"of the expression table go up to 900, so they are not on a log scale"
    ):
        adata = datasets.read_cohort(rna, clinical(x=[1, 2]))
    assert adata.X.max() == 900, "told, not transformed"


def test_checksums(tmp_path: Path) -> None:
    seen = written(tmp_path, "seen.csv", SEEN)
    right = hashlib.sha256(seen.read_bytes()).hexdigest()
    assert datasets.read_cohort(None, seen, sha256={"seen.csv": right.upper()}).n_obs == 3
    with pytest.raises(
        ValueError,
        match=f"seen.csv is not the file that was expected: its SHA-256 is {right}, not abc",
    ):
        datasets.read_cohort(None, seen, sha256={"seen.csv": "abc"})


# -- mofaCLL
# --------------------------------------------------------------------------------------------------


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


@pytest.mark.realdata
def test_real_arrays_of_cll(shared_file: SharedFile) -> None:
    files = shared_file("data/sCLLex_exprs.csv.gz"), shared_file("data/sCLLex_pheno.csv")
    adata = datasets.read_cohort(
        *files, event_key="Disease", event_values={"progres.": 1, "stable": 0}
    )
    assert adata.shape == (22, 12625)
    assert adata.obs["Disease"].sum() == 14
    with pytest.raises(ValueError, match=r"found 'progres.', 'stable'.*say what they mean"):
        datasets.read_cohort(*files, event_key="Disease")


@pytest.mark.realdata
def test_real_arrays_of_all(shared_file: SharedFile) -> None:
    """Remission to relapse, from the dates."""
    seen = pd.read_csv(shared_file("data/ALL_pheno.csv"), dtype={"Unnamed: 0": str}).set_index(
        "Unnamed: 0"
    )
    dates = seen[["date.cr", "date last seen"]].apply(
        pd.to_datetime, format="%m/%d/%Y", errors="coerce"
    )
    start, end = dates["date.cr"], dates["date last seen"]
    seen["days"], seen["relapse"] = (end - start).dt.days, seen["relapse"].astype("boolean")
    adata = datasets.read_cohort(
        shared_file("data/ALL_exprs.csv.gz"),
        seen,
        time_key="days",
        event_key="relapse",
        unit="days",
    )
    assert adata.shape == (128, 12625)
    assert adata.obs_names[0] == "01005"
    known = adata.obs.dropna(subset=["days", "relapse"])
    outcome = adata.uns["cohort"]["outcome"]
    assert (outcome["n"], outcome["n_events"]) == (len(known), known["relapse"].sum()) == (88, 64)
    assert 0.5 < known["days"].median() < 3
    genes = pp.collapse_probes(adata, {"2061_at": "ITGA4", "35731_at": "ITGA4"})
    assert genes.var["probe"].to_dict() == {"ITGA4": "35731_at"}


# -- GEO
# --------------------------------------------------------------------------------------------------

SERIES = """!Series_title	"CLL, untreated"
!Series_geo_accession	"GSE39671"
!Series_platform_id	"GPL570"

!Sample_title	"CLL 1"	"CLL 2"	"CLL 3"
!Sample_geo_accession	"GSM1"	"GSM2"	"GSM3"
!Sample_organism_ch1	"Homo sapiens"	"Homo sapiens"	"Homo sapiens"
!Sample_source_name_ch1	"blood"	"blood"	"node"
!Sample_characteristics_ch1	"age: 61"	"age: 70"	""
!Sample_characteristics_ch1	"treatment status (1=yes/0=no): 1"	"cd38: high: 30 %"	"age: 55"
!Sample_characteristics_ch1	"age: 62"	"CLL"	""
!series_matrix_table_begin
"ID_REF"	"GSM1"	"GSM2"	"GSM3"
"35731_at"	5.5	6	null
"2061_at"	7	8.25	9
!series_matrix_table_end
"""


@pytest.mark.parametrize("name", ["s.txt", "s.txt.gz"])
def test_series_matrix(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, SERIES)
    adata = datasets.read_geo_series(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert adata.obs_names.tolist() == ["GSM1", "GSM2", "GSM3"]
    np.testing.assert_array_equal(
        adata.to_df()[["35731_at", "2061_at"]], [[5.5, 7], [6, 8.25], [np.nan, 9]]
    )
    obs = adata.obs
    assert obs["age"].tolist() == [61, 70, 55], "by its key, not by its line"
    np.testing.assert_array_equal(obs["age_2"], [62, np.nan, np.nan])
    np.testing.assert_array_equal(obs["treatment status (1=yes_0=no)"], [1, np.nan, np.nan])
    assert obs["cd38"].tolist()[1] == "high: 30 %"
    assert obs["characteristics_ch1"].tolist()[1] == "CLL"
    assert obs["source_name_ch1"].tolist() == ["blood", "blood", "node"]
    assert "organism_ch1" not in obs
    assert adata.uns["cohort"]["platform_id"].tolist() == ["GPL570"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["cohort"]["title"].tolist() == ["CLL, untreated"]


def test_outcome_of_a_series(tmp_path: Path) -> None:
    geo = datasets.read_geo_series(written(tmp_path, "s.txt", SERIES))
    geo.obs["days"] = [400, 800, 1200]
    words = {"blood": 0, "node": 1}
    adata = datasets.read_cohort(
        geo.to_df().T,
        geo.obs,
        time_key="days",
        event_key="source_name_ch1",
        unit="days",
        event_values=words,
    )
    np.testing.assert_array_equal(adata.X, geo.X)
    assert adata.obs["source_name_ch1"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SERIES.replace("!Sample_geo_accession", "!Sample_g"),
            "not a series matrix of GEO: it has no line",
        ),
        (SERIES[:-10], "ends before its table does"),
        (SERIES[: SERIES.index('"2061_at"')], "ends before its table does"),
        (SERIES[: SERIES.index("!series_matrix_table_begin")], "ends before its table does"),
        (
            SERIES.replace("2061_at", "35731_at"),
            r"genes\) must be unique; found more than once: '35731_at'",
        ),
        (
            SERIES.replace('"ID_REF"	"GSM1"', '"ID_REF"	"GSM7"'),
            "name different samples: 'GSM1', 'GSM7'",
        ),
        (SERIES.replace("8.25", "8,25"), "decimal commas"),
    ],
)
def test_series_matrix_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.read_geo_series(written(tmp_path, "s.txt", text))


def test_compressed_file_that_was_cut_off(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(
        f'"p{i}"\t{a}\t{b}\t{c}\n' for i, (a, b, c) in enumerate(rng.random((20_000, 3)))
    )
    whole = gzip.compress(
        (SERIES[: SERIES.index('"35731_at"')] + rows + "!series_matrix_table_end\n").encode()
    )
    (tmp_path / "s.txt.gz").write_bytes(whole)
    assert datasets.read_geo_series(tmp_path / "s.txt.gz").n_vars == 20_000
    for n in (150, len(whole) // 2, len(whole) - 10):
        (tmp_path / "s.txt.gz").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="is not complete; get it again"):
            datasets.read_geo_series(tmp_path / "s.txt.gz")


def test_series_that_needs_a_word(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="The values of s.txt go up to 825, so they are not on a log scale"
    ):
        datasets.read_geo_series(written(tmp_path, "s.txt", SERIES.replace("8.25", "825")))
    start, end = SERIES.index('"35731_at"'), SERIES.index("!series_matrix_table_end")
    with pytest.warns(
        UserWarning, match="e.txt holds no values; series of sequencing have their counts"
    ):
        adata = datasets.read_geo_series(written(tmp_path, "e.txt", SERIES[:start] + SERIES[end:]))
    assert adata.shape == (3, 0)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if "GSE66" in self.path:  # says more bytes than it sends
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\x1f\x8b\x08\x00")
        elif "GSE77" in self.path:
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def geo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that holds one series, in GEO's folders."""
    root = tmp_path / "server"
    folder = root / "GSE39nnn" / "GSE39671" / "matrix"
    folder.mkdir(parents=True)
    path = written(folder, "GSE39671_series_matrix.txt.gz", SERIES)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(_download_geo_series, "_BASE", f"http://127.0.0.1:{server.server_port}")
        yield path
        server.shutdown()
        thread.join()


def test_download_once(geo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    path = datasets.download_geo_series("GSE39671", folder)
    found = hashlib.sha256(geo.read_bytes()).hexdigest()
    assert path == folder / "GSE39671_series_matrix.txt.gz"
    assert path.read_bytes() == geo.read_bytes()
    assert (folder / f"{path.name}.sha256").read_text() == f"{found}  {path.name}\n"
    assert datasets.read_geo_series(path, sha256=found).n_obs == 3
    written(geo.parent, geo.name, SERIES.replace("8.25", "8.5"))  # GEO has another version now
    assert datasets.download_geo_series("GSE39671", folder) == path
    assert path.read_bytes() != geo.read_bytes(), "a file that is there is not loaded again"
    with pytest.raises(ValueError, match="not the file that was expected"):
        datasets.download_geo_series("GSE39671", folder, sha256=found, overwrite=True)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found, "the old file stays"
    datasets.download_geo_series("GSE39671", folder, overwrite=True)
    assert path.read_bytes() == geo.read_bytes()
    assert len(list(folder.iterdir())) == 2, "nothing is left aside"


def test_a_file_that_changed_is_noticed(geo: Path, tmp_path: Path) -> None:
    path = datasets.download_geo_series("GSE39671", tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        ValueError, match=r"GSE39671_series_matrix\.txt\.gz is not the file that was expected"
    ):
        datasets.download_geo_series("GSE39671", tmp_path)


def test_a_file_that_was_put_there_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path, "GSE1_series_matrix.txt.gz", SERIES)
    assert datasets.download_geo_series("GSE1", tmp_path) == path
    assert (tmp_path / f"{path.name}.sha256").exists()


@pytest.mark.parametrize(
    ("accession", "error", "message"),
    [
        (
            "GSE39672",
            FileNotFoundError,
            (
                r"GEO has no "
                r".*/GSE39nnn/GSE39672/matrix/GSE39672_series_matrix.txt.gz.*GSE…-GPL…"
            ),
        ),
        (
            "GSE22762-GPL570",
            FileNotFoundError,
            "/GSE22nnn/GSE22762/matrix/GSE22762-GPL570_series_matrix.txt.gz",
        ),
        (
            "GSE66",
            ConnectionError,
            (
                r"Could not load .*/GSEnnn/GSE66/matrix/.* \(4 of 1000 bytes "
                r"came\)"
            ),
        ),
        (
            "GSE77",
            ConnectionError,
            (
                r"Could not load .* put it at .*GSE77_series_matrix.txt.gz, "
                r"then"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("geo")
def test_download_that_fails(
    tmp_path: Path, accession: str, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(error, match=message):
        datasets.download_geo_series(accession, folder)
    assert list(folder.iterdir()) == []


def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download_geo_series, "_BASE", "http://127.0.0.1:9")
    with pytest.raises(
        ConnectionError,
        match=r"Could not load http://127.0.0.1:9/GSEnnn/GSE12/.*refused.*put it at",
    ):
        datasets.download_geo_series("GSE12", tmp_path)


@pytest.mark.parametrize("accession", ["GPL570", "GSE", "../GSE1", "GSE1/..", "GSE1-570", ""])
def test_accessions_that_are_none(accession: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected the accession of a series in GEO"):
        datasets.download_geo_series(accession, tmp_path)


def test_the_address_is_geo() -> None:
    assert _download_geo_series._address("GSE39671", "x") == (
        "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE39nnn/GSE39671/matrix/x"
    )
    assert "/GSEnnn/GSE12/" in _download_geo_series._address("GSE12-GPL1", "x")
