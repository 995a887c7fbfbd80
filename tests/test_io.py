"""A signature goes to files that other programs read, and comes back as it was."""

from __future__ import annotations

import json

import anndata as ad
import decoupler as dc
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sb


@pytest.fixture(scope="session")
def found() -> AnnData:
    adata = sb.datasets.planted_donors(rng=0)
    sb.tl.signature(adata, groupby="label")
    return adata


def selected(adata: AnnData) -> pd.DataFrame:
    genes = adata.uns["signature"]["genes"]
    return genes[genes["selected"]]


@pytest.mark.parametrize("what", ["object", "table"])
def test_gmt_holds_both_directions(found, tmp_path, what) -> None:
    path, genes = tmp_path / "new" / "a.gmt", selected(found)
    sb.io.write_gmt(found if what == "object" else found.uns["signature"]["genes"], path, name="X")
    sets = sb.io.read_gmt(path)
    assert sets == {
        "X_UP": list(genes.loc[genes["sign"] > 0, "gene"]),
        "X_DN": list(genes.loc[genes["sign"] < 0, "gene"]),
    }
    net = dc.pp.read_gmt(str(path))
    assert {name: part["target"].tolist() for name, part in net.groupby("source")} == sets
    assert [p.name for p in path.parent.iterdir()] == ["a.gmt"], "nothing is left aside"


def test_gmt_says_where_it_is_from(found, tmp_path) -> None:
    adata = AnnData(
        uns={
            "signature": found.uns["signature"] | {"params": dict(found.uns["signature"]["params"])}
        }
    )
    adata.uns["signature"]["params"]["classes"] = ["not sick", "very\tsick"]
    sb.io.write_gmt(adata, tmp_path / "a.gmt")
    for line in (tmp_path / "a.gmt").read_text().splitlines():
        origin = f"scbert_cll_{sb.__version__};label:very_sick_vs_not_sick;8_donors;q<0.05"
        assert line.split("\t")[1] == origin
    assert len(dc.pp.read_gmt(str(tmp_path / "a.gmt"))) == len(selected(found)), (
        "no word of it was taken for a gene"
    )


def test_a_signature_of_one_direction_is_one_set(tmp_path) -> None:
    table = pd.DataFrame({"gene": ["ITGA4", "CD38"], "weight": [2.0, 1.0]})
    sb.io.write_gmt(table, tmp_path / "a.gmt")
    assert sb.io.read_gmt(tmp_path / "a.gmt") == {"CD49D_UP": ["ITGA4", "CD38"]}


def test_csv_comes_back_with_all_evidence(found, tmp_path) -> None:
    sb.io.write_csv(found, tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    table = found.uns["signature"]["genes"].reset_index(drop=True)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back["selected"].dtype == bool
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["scbert_cll"] == sb.__version__
    assert facts["params"]["groupby"] == "label"
    assert facts["params"]["classes"] == ["negative", "positive"]
    assert (facts["n_donors"], facts["n_tested"]) == (8, len(table))
    assert facts["reason"] == ""


def test_csv_after_a_file_says_the_same(found, tmp_path) -> None:
    """What AnnData makes of lists and numbers is written as before."""
    infinite = found.copy()
    infinite.uns["signature"]["df_prior"] = np.inf
    infinite.write_h5ad(tmp_path / "a.h5ad")
    for name, adata in (("a", infinite), ("b", ad.read_h5ad(tmp_path / "a.h5ad"))):
        sb.io.write_csv(adata, tmp_path / f"{name}.csv")
    for end in ("csv", "json"):
        texts = [(tmp_path / f"{name}.{end}").read_text() for name in "ab"]
        assert (
            texts[0] == texts[1] if end == "csv" else json.loads(texts[0]) == json.loads(texts[1])
        )
    assert json.loads(texts[0])["df_prior"] == "inf"


def test_a_written_signature_scores_as_the_original(found, tmp_path) -> None:
    sb.io.write_csv(found, tmp_path / "a.csv")
    sb.io.write_gmt(found, tmp_path / "a.gmt")
    score = lambda *args: sb.tl.score_signature(found, *args, copy=True).obs["signature_score"]  # noqa: E731
    np.testing.assert_allclose(score(pd.read_csv(tmp_path / "a.csv")), score())
    signs = dict(zip(selected(found)["gene"], selected(found)["sign"], strict=True))
    np.testing.assert_allclose(score(tmp_path / "a.gmt"), score(signs))


@pytest.mark.parametrize(("write", "end"), [(sb.io.write_gmt, "gmt"), (sb.io.write_csv, "csv")])
def test_a_file_is_replaced_on_request_only(found, tmp_path, write, end) -> None:
    path = tmp_path / f"a.{end}"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists; pass overwrite=True to replace it"):
        write(found, path)
    assert path.read_text() == "mine"
    write(found, path, overwrite=True)
    assert selected(found)["gene"].iloc[0] in path.read_text()


def test_csv_leaves_the_json_of_another_file(found, tmp_path) -> None:
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a.json exists"):
        sb.io.write_csv(found, tmp_path / "a.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(found, tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.gmt"
    path.write_text("old")

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        sb.io.write_gmt(found, path, overwrite=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.gmt", b"old")]


def test_an_empty_signature_is_no_gmt_but_may_be_a_csv(tmp_path) -> None:
    adata = sb.datasets.planted_donors(effect="none", n_donors=4, n_cells=60, rng=1)
    sb.tl.signature(adata, groupby="label")
    with pytest.raises(
        ValueError, match=r"The signature is empty \(.+\): a GMT file has no set without genes"
    ):
        sb.io.write_gmt(adata, tmp_path / "a.gmt")
    sb.io.write_csv(adata, tmp_path / "a.csv")
    assert not pd.read_csv(tmp_path / "a.csv")["selected"].any()
    assert (
        json.loads((tmp_path / "a.json").read_text())["reason"] == adata.uns["signature"]["reason"]
    )


def test_a_signature_of_too_few_donors_is_no_file(tmp_path) -> None:
    adata = sb.datasets.planted_donors(n_donors=4, n_cells=80, rng=1)
    sb.tl.signature(adata, groupby="label", min_donors=5)
    for write, end in ((sb.io.write_gmt, "gmt"), (sb.io.write_csv, "csv")):
        with pytest.raises(
            ValueError, match=r"The signature is empty \(4 donors have .*, and 5 are needed"
        ):
            write(adata, tmp_path / f"a.{end}")
    assert not list(tmp_path.iterdir())


def test_other_things_are_refused(found, tmp_path) -> None:
    path = tmp_path / "a.gmt"
    with pytest.raises(
        KeyError, match=r"'signature' is not in adata.uns; .* Run tl.signature first"
    ):
        sb.io.write_gmt(sb.datasets.planted_donors(n_donors=4, n_cells=2), path)
    with pytest.raises(
        TypeError, match="Expected an AnnData or the table of a signature, found dict"
    ):
        sb.io.write_gmt({"ITGA4": 1.0}, path)
    with pytest.raises(
        ValueError, match="name must be one word without blanks; found 'CD49d high'"
    ):
        sb.io.write_gmt(found, path, name="CD49d high")
    with pytest.raises(ValueError, match="names of genes must have none; found 'HLA DRA'"):
        sb.io.write_gmt(pd.DataFrame({"gene": ["HLA DRA"], "weight": [1.0]}), path)
    with pytest.raises(ValueError, match="needs the columns 'gene' and 'weight'"):
        sb.io.write_gmt(pd.DataFrame({"symbol": ["ITGA4"]}), path)
    with pytest.raises(ValueError, match="The signature is empty: its table has no gene"):
        sb.io.write_csv(pd.DataFrame(), tmp_path / "a.csv")
    with pytest.raises(
        ValueError, match=r"The ending of the file must be one of '.csv'; found '.xlsx'"
    ):
        sb.io.write_csv(found, tmp_path / "a.xlsx")
    assert not list(tmp_path.iterdir())


def test_a_table_that_was_changed_says_that_its_origin_is_of_an_earlier_one(tmp_path):
    path = tmp_path / "a.csv"
    sb.io.write_csv(pd.DataFrame({"gene": ["A", "B"], "weight": [1.0, 2.0]}), path)
    assert len(sb.io.read_csv(path)) == 2
    path.write_text(path.read_text().replace("2.0", "3.0"))
    with pytest.warns(
        UserWarning, match=r"a\.csv has changed since it was written: a\.json says where an earlier"
    ):
        assert sb.io.read_csv(path)["weight"].tolist() == [1.0, 3.0]
    sb.io.write_csv(pd.read_csv(path), path, overwrite=True)
    assert sb.io.read_csv(path)["weight"].tolist() == [1.0, 3.0]
