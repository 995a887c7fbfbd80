"""What a corpus on disk says of itself, and how damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll._corpus.format import damage, open_corpus

SHARD = "train/dataset_0/X/data/c/0"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    X = sparse.csr_matrix(np.random.default_rng(0).poisson(2, (60, 20)).astype(np.float32))
    obs = pd.DataFrame(
        {"donor": [f"D{i % 3}" for i in range(60)]}, index=[f"c{i}" for i in range(60)]
    )
    adata = AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(20)]))
    sc_cll.pp.bin_expression(adata, method="gene_quantile")
    edges = adata.uns["binned"]
    del adata.layers["binned"], adata.uns["binned"]
    adata.write_h5ad(folder / "a.h5ad")
    sc_cll.pp.build_corpus(folder / "a.h5ad", folder / "c.zarr", vocab=adata, edges=edges)
    return folder / "c.zarr"


@pytest.fixture
def corpus(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "c.zarr"))


def test_every_file_is_in_the_manifest(corpus: Path) -> None:
    table = sc_cll.io.check_corpus(corpus)
    there = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.is_file()}
    assert set(table["file"]) == there - {"manifest.json"}
    assert table["is_whole"].all()
    assert table["bytes"].tolist() == [(corpus / name).stat().st_size for name in table["file"]]


def test_what_it_says(corpus: Path) -> None:
    found = open_corpus(corpus)
    assert found.genes.tolist() == [f"G{i}" for i in range(20)]
    assert found.binning["edges"].index.tolist() == found.genes.tolist()
    assert found.n_cells("train") + found.n_cells("val") == 60
    assert [dataset["name"] for dataset in found.datasets("val")] == ["dataset_0"]
    assert found.digest == open_corpus(corpus).digest


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (SHARD, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum differs"),
        (SHARD, lambda data: data[:-3], "bytes instead of"),
        (SHARD, None, "missing"),
        ("vocab.txt", lambda data: data.replace(b"G1\n", b"G!\n"), "checksum differs"),
        ("edges.csv", lambda data: data + b"\n", "bytes instead of"),
        ("val/zarr.json", lambda data: data.replace(b"3", b"2"), "checksum differs"),
    ],
)
def test_damage_is_found_by_file(corpus: Path, name: str, change: object, problem: str) -> None:
    if callable(change):
        (corpus / name).write_bytes(change((corpus / name).read_bytes()))
    else:
        (corpus / name).unlink()
    table = sc_cll.io.check_corpus(corpus).set_index("file")
    assert table.index[~table["is_whole"]].tolist() == [name]
    assert problem in table.loc[name, "problem"]
    if name == SHARD and problem == "checksum differs":
        found = open_corpus(
            corpus
        )  # large files are only measured: their chunks are checked when they are read
        assert damage(found) == [f"{SHARD} (checksum differs)"]
    else:
        with pytest.raises(
            ValueError, match=rf"is damaged: {name} \(.*{problem}.*Restore these files from a copy"
        ):
            open_corpus(corpus)


def test_other_folders(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no corpus .*: it has no manifest.json"):
        sc_cll.io.check_corpus(tmp_path)
    record = json.loads((corpus / "manifest.json").read_text())
    for change, sentence in (
        ({"format": "x"}, "is not a corpus"),
        ({"format_version": 99}, "newer scbert_cll .format 99, .* reads 2"),
    ):
        (corpus / "manifest.json").write_text(json.dumps(record | change))
        with pytest.raises(ValueError, match=sentence):
            sc_cll.io.check_corpus(corpus)
    (corpus / "manifest.json").write_text('{"format"')
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        open_corpus(corpus)
