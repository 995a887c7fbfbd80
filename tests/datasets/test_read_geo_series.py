"""Series matrices of GEO."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scbert_cll import datasets
from tests.datasets._files import SERIES, written


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
        (
            (
                '!Sample_geo_accession\n!Sample_title\t"a\n'
                '!series_matrix_table_begin\n"ID_REF"\n!series_matrix_table_end\n'
            ),
            "0 samples and 1 values in a line !Sample_title, and a quote in line 2 is not closed",
        ),
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
