"""Tables of the user's own: what is joined, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll import datasets, pp
from tests.datasets._files import SharedFile, written

RNA = '"","P1","P2","P3"\n"ITGA4",5.5,NA,7.25\n"NA",1,2,3\n'


SEEN = '"","years","dead","group"\n"P3",1.5,TRUE,"a"\n"P1",2.5,FALSE,"b"\n"P2",4,TRUE,NA\n'


OUTCOME = {"time_key": "years", "event_key": "dead"}


def clinical(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"P{i + 1}" for i in range(n)])


def read(**columns: Any) -> ad.AnnData:
    """Patients without expression, whose outcome is in `t` and `e`."""
    return datasets.read_cohort(None, clinical(**columns), time_key="t", event_key="e")


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
    often = "id,site,patient\n1,1e3,01005\n2,1e3,1e3\n3,1e3,x\n4,y,y\n"  # one sample thrice
    with pytest.raises(ValueError, match=r"'patient' has 2 of them: sample_key='patient'"):
        datasets.read_cohort(rna, written(tmp_path, "often.csv", often))
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
