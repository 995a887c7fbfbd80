"""pp.build_corpus: every kept cell once, its tokens those of the whole file in memory, donors
apart, and nothing half-written.
"""

from __future__ import annotations

import errno
import gc
import json
import re
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll._corpus import building, scan
from scbert_cll._corpus.format import open_corpus
from scbert_cll._disk import formats
from scbert_cll._gene_names.table import shipped

pytestmark = pytest.mark.filterwarnings("ignore:(Variable|Observation) names are not unique")

GENES = [f"G{i}" for i in range(30)]


def filled(n: int = 60, genes: Sequence[str] = GENES, *, donors: int = 3, rng: int = 0) -> AnnData:
    """Cells with counts, none empty."""
    random = np.random.default_rng(rng)
    X = random.poisson(1.2, (n, len(genes))).astype(np.float32)
    X[:, 0] += 9
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n)])
    obs["donor"] = [f"D{(i * 7 + rng) % donors}" for i in range(n)]
    return AnnData(sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=list(genes)))


def on_disk(adata: AnnData, path: Path) -> Path:
    adata.copy().write_h5ad(path)
    return path


def stored(corpus: Path) -> AnnData:
    """All cells of a corpus, with their part."""
    found = {}
    for part in ("train", "val"):
        if (corpus / part).exists():
            names = sorted(path.name for path in (corpus / part).glob("dataset_*"))
            found |= {
                f"{part}/{name}": ad.io.read_elem(zarr.open_group(corpus / part / name, mode="r"))
                for name in names
            }
    return ad.concat(found, label="where", join="outer", merge="same", uns_merge=None)


def checksums(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): formats.sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def build(folder: Path, *files: AnnData, **arguments: Any) -> Path:
    """A corpus of AnnData."""
    paths = [on_disk(adata, folder / f"f{i}.h5ad") for i, adata in enumerate(files)]
    sc_cll.pp.build_corpus(
        paths, folder / "corpus.zarr", **{"vocab": GENES, "memory": "20KB"} | arguments
    )
    return folder / "corpus.zarr"


# -- what is in it
# --------------------------------------------------------------------------------------------------


@st.composite
def file(draw: st.DrawFn, i: int) -> AnnData:
    """A file of any genes (known, unknown, repeated) in any order, any donors, with cells that have
    little.
    """
    known = draw(st.lists(st.sampled_from(GENES[:8]), min_size=4, max_size=9))
    genes = draw(st.permutations([*known, *(f"other{j}" for j in range(draw(st.integers(0, 3))))]))
    n = draw(st.integers(1, 12))
    values = draw(st.lists(st.integers(0, 9), min_size=n * len(genes), max_size=n * len(genes)))
    X = np.array(values, np.float32).reshape(n, len(genes)) * draw(st.sampled_from([1, 40]))
    obs = pd.DataFrame({"donor": draw(st.lists(st.sampled_from("ABCD"), min_size=n, max_size=n))})
    obs.index = pd.Index([f"{i}c{j}" for j in range(n)])
    matrix = draw(st.sampled_from([sparse.csr_matrix, sparse.csc_matrix, np.asarray]))
    return AnnData(matrix(X), obs=obs, var=pd.DataFrame(index=genes))


@pytest.mark.slow  # builds a dozen corpora
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_the_files_every_kept_cell_is_there_once_as_in_memory(data: st.DataObject) -> None:
    files = [data.draw(file(i)) for i in range(data.draw(st.integers(1, 3)))]
    method = data.draw(st.sampled_from(["log2", "quantile"]))
    min_genes, memory = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2500, 10**6]))
    expected = {}
    for i, adata in enumerate(files):
        aligned = sc_cll.pp.align_genes(adata, GENES[:8], min_matched=0.1)
        aligned = aligned[np.asarray((aligned.X > 0).sum(axis=1)).ravel() >= min_genes].copy()
        if aligned.n_obs:
            sc_cll.pp.bin_expression(aligned, method=method)
            rows = aligned.layers["binned"].toarray()
            expected |= {
                f"{i}:{name}": (row, donor)
                for name, row, donor in zip(
                    aligned.obs_names, rows, aligned.obs["donor"], strict=True
                )
                if row.any()
            }
    donors = {donor for _, donor in expected.values()}
    arguments = {
        "vocab": GENES[:8],
        "method": method,
        "min_genes": min_genes,
        "min_matched": 0.1,
        "memory": memory,
    }
    arguments["val_fraction"] = 0.3 if len(donors) > 1 else 0
    fewest = data.draw(st.sampled_from([1, 2**12]))  # values of a block
    smallest = mock.patch.object(scan, "_FEWEST_VALUES", fewest)
    with tempfile.TemporaryDirectory() as folder, smallest:
        if not expected:
            with pytest.raises(ValueError, match="No cell is left"):
                build(Path(folder), *files, **arguments)
            return
        corpus = build(Path(folder), *files, **arguments)
        found = stored(corpus)
        manifest = json.loads((corpus / "manifest.json").read_text())
    assert sorted(found.obs_names) == sorted(expected)
    assert found.X.dtype == np.uint8
    for name, row in zip(found.obs_names, found.X.toarray(), strict=True):
        assert row.tolist() == expected[name][0].tolist()
    assert found.obs["donor"].astype(str).to_dict() == {
        name: donor for name, (_, donor) in expected.items()
    }
    part = found.obs["where"].str.partition("/")[0]
    assert (
        found.obs.groupby("donor", observed=True)["where"]
        .agg(lambda x: x.str.partition("/")[0].nunique())
        .max()
        == 1
    )
    assert set(part) == ({"train", "val"} if len(donors) > 1 else {"train"})
    assert sum(source["n_kept"] for source in manifest["sources"]) == len(expected)


def test_cells_are_shuffled_over_files_and_datasets(tmp_path: Path) -> None:
    corpus = build(tmp_path, filled(300, rng=1), filled(300, rng=2), val_fraction=0)
    found = stored(corpus)
    assert found.obs["where"].nunique() > 3
    sizes = found.obs["where"].value_counts()
    assert sizes.max() < 1.5 * sizes.min()
    assert (found.obs.groupby("where", observed=True)["source"].nunique() == 2).all()
    number = found.obs_names.str.extract(r"(\d+)$")[0].astype(int).to_numpy()
    assert abs(np.corrcoef(number, np.arange(len(number)))[0, 1]) < 0.5
    assert (np.abs(np.diff(number)) == 1).mean() < 0.2


def test_annbatch_opens_and_loads_it(tmp_path: Path) -> None:
    annbatch = pytest.importorskip("annbatch")
    corpus = build(tmp_path, filled(200))
    collection = annbatch.DatasetCollection(zarr.open_group(corpus / "train", mode="r"))
    assert not collection.is_empty
    assert list(collection.obs()) == ["donor", "source"]
    loader = annbatch.Loader(
        batch_size=20,
        chunk_size=20,
        preload_nchunks=2,
        shuffle=False,
        preload_to_gpu=False,
        drop_last=False,
    )
    loader.use_collection(collection)
    loaded = np.concatenate(
        [
            batch["X"].to_dense().numpy()
            if hasattr(batch["X"], "to_dense")
            else batch["X"].toarray()
            for batch in loader
        ]
    )
    train = stored(corpus)[stored(corpus).obs["where"].str.startswith("train")]
    assert loaded.tolist() == train.X.toarray().tolist()


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = (build(tmp_path / name, filled(100), filled(100, rng=1)) for name in "ab")
    assert checksums(a) == checksums(b)
    other = tmp_path / "c.zarr"
    sc_cll.pp.build_corpus(
        [tmp_path / "a" / "f0.h5ad", tmp_path / "a" / "f1.h5ad"],
        other,
        vocab=GENES,
        memory="20KB",
        rng=1,
    )
    assert stored(other).obs_names.tolist() != stored(a).obs_names.tolist()


def test_every_chunk_has_a_checksum_that_reading_checks(tmp_path: Path) -> None:
    corpus = build(tmp_path, filled(100), memory="1MB", val_fraction=0)
    for array in ("data", "indices"):
        shard = corpus / "train" / "dataset_0" / "X" / array / "c" / "0"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_group(corpus / "train" / "dataset_0", mode="r")[f"X/{array}"][:]
        shard.write_bytes(whole)


@pytest.mark.parametrize(
    "form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray, "layer", "int64"]
)
def test_matrices_in_any_form(tmp_path: Path, form: Any) -> None:
    adata, arguments = filled(), {}
    expected = build(tmp_path, adata, val_fraction=0, memory="50KB")
    (tmp_path / "other").mkdir()
    if form == "layer":
        adata.layers["counts"], adata.X, arguments = adata.X, adata.X * 0.5, {"layer": "counts"}
    else:
        adata.X = adata.X.astype(np.int64) if form == "int64" else form(adata.X.toarray())
    found = build(tmp_path / "other", adata, val_fraction=0, memory="50KB", **arguments)
    assert stored(found).X.toarray().tolist() == stored(expected).X.toarray().tolist()


def ten_x(path: Path, adata: AnnData) -> Path:
    """A file as Cell Ranger 3 and later write them, with an antibody among the features."""
    counts = sparse.csr_matrix(sparse.hstack([adata.X, np.full((adata.n_obs, 1), 999)])).astype(
        np.int32
    )
    with h5py.File(path, "w") as h5:
        matrix = h5.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(counts, name)
        matrix["shape"] = np.array(counts.shape[::-1])
        matrix["barcodes"] = np.array(adata.obs_names, dtype="S20")
        features = {
            "name": [*adata.var_names, "G1"],
            "id": [f"ENSG{i}" for i in range(adata.n_vars)] + ["AB1"],
        }
        features["feature_type"] = ["Gene Expression"] * adata.n_vars + ["Antibody Capture"]
        for name, values in features.items():
            matrix[f"features/{name}"] = np.array(values, dtype="S20")
    return path


def test_10x_and_mudata_beside_h5ad(tmp_path: Path) -> None:
    a, b, c = (filled(40, rng=i) for i in range(3))
    mdata = MuData({"prot": AnnData(np.ones((40, 2), np.float32), obs=b.obs[[]]), "rna": b})
    mdata.write_h5mu(tmp_path / "b.h5mu")
    paths = [on_disk(a, tmp_path / "a.h5ad"), tmp_path / "b.h5mu", ten_x(tmp_path / "c.h5", c)]
    table = sc_cll.pp.build_corpus(paths, tmp_path / "corpus.zarr", vocab=GENES, val_donors=["c"])
    assert table["n_kept"].tolist() == [40, 40, 40]
    assert table["n_genes"].tolist() == [30, 30, 30]
    found = stored(tmp_path / "corpus.zarr")
    val = found[found.obs["where"].str.startswith("val")]
    assert set(val.obs["donor"]) == {"c"}
    sc_cll.pp.bin_expression(c)
    assert (
        val[[f"2:{name}" for name in c.obs_names]].X.toarray().tolist()
        == c.layers["binned"].toarray().tolist()
    )
    ids = tmp_path / "ids.zarr"
    sc_cll.pp.build_corpus(paths[2:], ids, vocab=[f"ENSG{i}" for i in range(30)], val_fraction=0)
    assert stored(ids)[:, "ENSG0"].X.min() > 0


def test_obs_columns_are_one_over_all_files(tmp_path: Path) -> None:
    a, b, c = (filled(30, rng=i) for i in range(3))
    a.obs["type"], b.obs["type"] = pd.Categorical(["T", "B", None] * 10), ["NK", "T", "T"] * 10
    a.obs["age"], b.obs["age"] = np.arange(30), pd.array([None, 1, 2] * 10, dtype="Int64")
    a.obs["sick"] = [True, False, True] * 10
    found = stored(build(tmp_path, a, b, c, obs_columns=["type", "age", "sick"]))
    assert list(found.obs) == ["donor", "source", "type", "age", "sick", "where"]
    assert list(found.obs["type"].cat.categories) == ["B", "NK", "T"]
    for i, adata in enumerate((a, b)):
        mine = found.obs.loc[[f"{i}:{name}" for name in adata.obs_names]]
        assert (
            mine["type"].astype(object).where(mine["type"].notna(), None).tolist()
            == adata.obs["type"].astype(object).where(adata.obs["type"].notna(), None).tolist()
        )
        assert mine["age"].fillna(-1).tolist() == adata.obs["age"].astype(float).fillna(-1).tolist()
    assert found.obs.loc[found.obs["source"] == "f2.h5ad", ["type", "age"]].isna().all(axis=None)
    assert found.obs.loc["0:cell0", "sick"] == "True"


def test_raw_counts(tmp_path: Path) -> None:
    adata = filled()
    found = stored(build(tmp_path, adata, binned=False, val_fraction=0))
    assert found.X.dtype == np.int32
    assert (
        found[[f"0:{name}" for name in adata.obs_names]].X.toarray().tolist()
        == adata.X.toarray().tolist()
    )
    assert open_corpus(tmp_path / "corpus.zarr").binning is None


@pytest.mark.parametrize("method", ["uniform", "gene_quantile"])
def test_learned_edges_are_taken_over(tmp_path: Path, method: str) -> None:
    adata = filled()
    with pytest.raises(ValueError, match=r"learns its edges from cells.*pass edges="):
        build(tmp_path, adata, method=method)
    sc_cll.pp.bin_expression(adata, method=method, n_bins=4)
    corpus = build(tmp_path, adata, edges=adata.uns["binned"], val_fraction=0)
    found = stored(corpus)[[f"0:{name}" for name in adata.obs_names]]
    assert found.X.toarray().tolist() == adata.layers["binned"].toarray().tolist()
    binning = open_corpus(corpus).binning
    params = {"method": method, "n_bins": 4, "target_sum": 1e4, "layer": "X", "n_genes": 30}
    assert binning["params"].items() >= params.items()
    assert np.array_equal(np.asarray(binning["edges"]), np.asarray(adata.uns["binned"]["edges"]))


def test_aliases_and_what_became_of_genes_and_cells(tmp_path: Path) -> None:
    adata = filled(genes=["CD49D", *GENES[1:20], "G1", "unknown"])
    adata.X = sparse.csr_matrix(adata.X.toarray() * (np.arange(60) != 3)[:, None])
    table = sc_cll.pp.build_corpus(
        on_disk(adata, tmp_path / "a.h5ad"),
        tmp_path / "c.zarr",
        vocab=GENES,
        aliases={"CD49D": "G0"},
        val_fraction=0,
    )
    assert table.iloc[0].to_dict() == {
        "file": "a.h5ad",
        "status": "used",
        "n_cells": 60,
        "n_kept": 59,
        "n_genes": 22,
        "n_matched": 20,
        "n_donors": 3,
        "reason": "",
    }
    (source,) = json.loads((tmp_path / "c.zarr" / "manifest.json").read_text())["sources"]
    assert source["renamed"] == {"CD49D": "G0"}
    assert str(tmp_path) not in (tmp_path / "c.zarr" / "manifest.json").read_text()


def test_cells_without_a_token_are_in_no_part(tmp_path: Path) -> None:
    """They are left out, not kept empty; their neighbours stay."""
    adata = filled(60)
    empty = np.isin(np.arange(60), [0, 3, 31, 59])
    adata.X = sparse.csr_matrix(adata.X.toarray() * ~empty[:, None])
    corpus = build(tmp_path, adata, val_fraction=0.4)
    found = stored(corpus)
    assert sorted(found.obs_names.str.split(":").str[-1]) == sorted(adata.obs_names[~empty])
    assert (np.diff(found.X.tocsr().indptr) > 0).all()
    assert open_corpus(corpus).n_cells("train") + open_corpus(corpus).n_cells("val") == 56


# -- donors
# --------------------------------------------------------------------------------------------------


def test_val_has_its_share_in_whole_donors(tmp_path: Path) -> None:
    corpus = build(
        tmp_path, filled(400, donors=20), filled(400, donors=20, rng=1), val_fraction=0.2
    )
    assert open_corpus(corpus).n_cells("val") == pytest.approx(160, abs=40)
    donors = json.loads((corpus / "manifest.json").read_text())["donors"]
    assert sorted(donors["train"] + donors["val"]) == sorted(f"D{i}" for i in range(20))


def test_donors_that_are_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        on_disk(filled(30, rng=ord(name)), tmp_path / name / "counts.h5ad")
    paths = [tmp_path / name / "counts.h5ad" for name in "ab"]
    sc_cll.pp.build_corpus(paths, tmp_path / "c.zarr", vocab=GENES, donor_key=None)
    assert set(stored(tmp_path / "c.zarr").obs["donor"]) == {"a/counts", "b/counts"}


def test_donors_that_cannot_be_held_out(tmp_path: Path) -> None:
    one = filled(donors=1)
    with pytest.raises(ValueError, match=r"needs at least two; found 'D0'.*val_fraction=0"):
        build(tmp_path, one)
    with pytest.raises(
        KeyError, match=r"val_donors names 'E', which no kept cell has; the donors are 'D0'"
    ):
        build(tmp_path, filled(), val_donors=["E"])
    with pytest.raises(ValueError, match="must leave donors on both sides; it names 3 of 3"):
        build(tmp_path, filled(), val_donors=["D0", "D1", "D2"])
    assert stored(build(tmp_path, one, val_fraction=0)).n_obs == 60


# -- files that cannot be used
# ----------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files, and what is said of each."""
    found: dict[str, tuple[Path, str]] = {}

    def add(name: str, adata: AnnData, sentence: str) -> Path:
        found[name] = (on_disk(adata, folder / f"{name}.h5ad"), sentence)
        return found[name][0]

    (folder / "text.h5ad").write_text("no")
    found["text"] = (folder / "text.h5ad", "is not an HDF5 file")
    path = add("cut", filled(300), "truncated|unable to open|Unable to")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with h5py.File(folder / "foreign.h5", "w") as h5:
        h5["weights"] = [1]
    found["foreign"] = (folder / "foreign.h5", "neither .h5ad .* it holds 'weights'")
    for name, value, sentence in (
        ("log", 0.5, "raw counts.*0.5.*'cell5'"),
        ("nan", np.nan, "NaN"),
        ("negative", -1, "negative"),
    ):
        adata = filled()
        adata.X[5, 3] = value
        add(name, adata, sentence)
    adata = filled()
    adata.raw, adata.X = adata.copy(), adata.X * 0.5
    add("normalized", adata, r"raw counts.*adata.raw holds whole numbers: pass layer='raw'")
    add("genes", filled(genes=[f"x{i}" for i in range(30)]), "0 of 30 vocabulary genes")
    add("donorless", AnnData(filled().X, var=filled().var), "'donor' is not in obs.*donor_key")
    adata = filled()
    adata.obs.loc["cell7", "donor"] = None
    add("somebody", adata, r"obs\['donor'\] is missing for 1 cells \('cell7'\)")
    adata = filled()
    adata.obs_names = ["a", "a", *adata.obs_names[2:]]
    add("names", adata, "obs_names must be unique.*'a'")
    path = add("column", filled(rng=5), "names column 777 of 30")
    with h5py.File(path, "r+") as h5:
        h5["X/indices"][4] = 777
    path = add("borders", filled(rng=6), "row borders")
    with h5py.File(path, "r+") as h5:
        h5["X/indptr"][4] = 10**6
    path = folder / "chunk.h5ad"
    filled(400, rng=7).write_h5ad(path, compression="gzip")
    with h5py.File(path) as h5:
        chunk = h5["X/data"].id.get_chunk_info(h5["X/data"].id.get_num_chunks() - 1)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(whole)
    found["chunk"] = (path, "read|filter|inflate")
    add("copy", filled(rng=99), "is a copy of good.h5ad")
    return found


def test_all_bad_files_are_named_before_anything_is_written(tmp_path: Path) -> None:
    good = on_disk(filled(rng=99), tmp_path / "good.h5ad")
    bad = bad_files(tmp_path)
    with pytest.raises(
        ValueError,
        match=f"{len(bad)} of {len(bad) + 1} files cannot be used, so nothing was written",
    ) as refused:
        sc_cll.pp.build_corpus(
            [good, *(path for path, _ in bad.values())], tmp_path / "corpus.zarr", vocab=GENES
        )
    lines = {line.split(":")[0].strip(): line for line in str(refused.value).splitlines()[1:-1]}
    unlike = {
        path.name: lines[path.name]
        for path, sentence in bad.values()
        if not re.search(sentence, lines[path.name])
    }
    assert unlike == {}
    assert not (tmp_path / "corpus.zarr").exists()


def test_bad_files_are_left_out_whole_and_reported(tmp_path: Path) -> None:
    good = on_disk(filled(rng=99), tmp_path / "good.h5ad")
    bad = bad_files(tmp_path)
    paths = [bad["text"][0], good, *(path for name, (path, _) in bad.items() if name != "text")]
    with pytest.warns(
        UserWarning,
        match=rf"{len(bad)} of {len(paths)} files are not in the corpus: text.h5ad \(is not an "
        rf"HDF5",
    ):
        table = sc_cll.pp.build_corpus(
            paths, tmp_path / "corpus.zarr", vocab=GENES, on_error="skip"
        )
    assert table["status"].value_counts().to_dict() == {"skipped": len(bad), "used": 1}
    assert (table["reason"] != "").tolist() == (table["status"] == "skipped").tolist()
    manifest = json.loads((tmp_path / "corpus.zarr" / "manifest.json").read_text())
    skipped = table[table["status"] == "skipped"]
    assert manifest["skipped"] == skipped[["file", "reason"]].to_dict("records")
    assert stored(tmp_path / "corpus.zarr").n_obs == 60


# -- interruptions
# --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, warnings
from scbert_cll import pp
from scbert_cll._corpus import building
write, calls = building.write_dataset, []
def write_some(folder, *arguments):
    calls.append(folder)
    if len(calls) == int(sys.argv[1]):
        os.makedirs(folder / "X", exist_ok=True)
        (folder / "X" / "zarr.json").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(folder, *arguments)
building.write_dataset = write_some
pp.build_corpus(sys.argv[3:], sys.argv[2], vocab=[f"G{i}" for i in range(30)], memory="20KB")
"""


def killed(folder: Path, paths: list[Path], at: int = 3) -> Path:
    """A build that was killed while it wrote a dataset."""
    out = folder / "corpus.zarr"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(at), out, *paths], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    return out


@pytest.mark.slow  # starts processes that are killed
def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [on_disk(filled(150, rng=i), tmp_path / f"f{i}.h5ad") for i in range(2)]
    out = killed(tmp_path, paths)
    assert not out.exists()
    with pytest.raises(
        FileNotFoundError, match=r"no corpus.*pp.build_corpus goes on from .*corpus.zarr.building"
    ):
        sc_cll.io.check_corpus(out)
    for arguments, what in (
        ({"rng": 1}, r"rng \(was 0, now 1\)"),
        ({"min_genes": 2, "val_fraction": 0.5}, "min_genes .*val_fraction"),
    ):
        with pytest.raises(
            ValueError, match=f"begun differently: {what}.*Call it the same way to go on, or delete"
        ):
            sc_cll.pp.build_corpus(paths, out, **{"vocab": GENES, "memory": "20KB"} | arguments)
    changed = tmp_path / "g" / "f1.h5ad"
    changed.parent.mkdir()
    on_disk(filled(150, rng=5), changed)
    with pytest.raises(
        ValueError, match=r"1 files are not what they were when .* was begun: 'f1.h5ad'"
    ):
        sc_cll.pp.build_corpus([paths[0], changed], out, vocab=GENES, memory="20KB")
    written = []
    whole = building.write_dataset
    monkeypatch.setattr(
        building,
        "write_dataset",
        lambda folder, *rest: written.append(folder.name) or whole(folder, *rest),
    )
    sc_cll.pp.build_corpus(paths, out, vocab=GENES, memory="20KB")
    assert len(written) == len(list(out.glob("*/dataset_*"))) - 2
    sc_cll.pp.build_corpus(paths, tmp_path / "whole.zarr", vocab=GENES, memory="20KB")
    assert checksums(out) == checksums(tmp_path / "whole.zarr")
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "train",
        "val",
        "vocab.txt",
    ]
    assert not (tmp_path / "corpus.zarr.building").exists()
    with pytest.raises(FileExistsError, match="exists; delete it, or name another folder"):
        sc_cll.pp.build_corpus(paths, out, vocab=GENES)


def test_a_dataset_that_a_power_failure_damaged_is_written_again(tmp_path: Path) -> None:
    paths = [on_disk(filled(150, rng=i), tmp_path / f"f{i}.h5ad") for i in range(2)]
    out = killed(tmp_path, paths)
    (
        tmp_path
        / "corpus.zarr.building"
        / "corpus"
        / "train"
        / "dataset_0"
        / "X"
        / "data"
        / "c"
        / "0"
    ).write_bytes(b"")
    sc_cll.pp.build_corpus(paths, out, vocab=GENES, memory="20KB")
    assert sc_cll.io.check_corpus(out)["is_whole"].all()


def test_before_the_first_dataset_another_call_may_start(tmp_path: Path) -> None:
    paths = [on_disk(filled(150, rng=i), tmp_path / f"f{i}.h5ad") for i in range(2)]
    out = killed(tmp_path, paths, at=1)
    sc_cll.pp.build_corpus(paths, out, vocab=GENES, memory="20KB", min_genes=3, method="quantile")
    sc_cll.pp.build_corpus(
        paths, tmp_path / "b.zarr", vocab=GENES, memory="20KB", min_genes=3, method="quantile"
    )
    assert checksums(out) == checksums(tmp_path / "b.zarr")


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = building.write_dataset

    def changing(folder: Path, *rest: Any) -> Any:
        on_disk(filled(rng=8), tmp_path / "f0.h5ad")
        return whole(folder, *rest)

    monkeypatch.setattr(building, "write_dataset", changing)
    with pytest.raises(ValueError, match=r"f0.h5ad changed while the corpus was built"):
        build(tmp_path, filled())


def test_a_full_disk_leaves_a_build_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = building.write_dataset, []

    def full(folder: Path, *rest: Any) -> Any:
        calls.append(folder)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_dataset", full)
        with pytest.raises(
            OSError, match=r"The disk is full; about [\d.]+ kB more are needed.*goes on from"
        ) as raised:
            build(tmp_path, filled(300))
        assert raised.value.errno == errno.ENOSPC
    assert sc_cll.io.check_corpus(build(tmp_path, filled(300)))["is_whole"].all()


def test_a_disk_that_is_clearly_too_small_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        building.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})()
    )
    with pytest.raises(
        OSError,
        match=r"The corpus needs about .* kB, and the disk of .* has .* left. Free some space",
    ):
        build(tmp_path, filled(300))


# -- memory
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def usual_collector() -> Iterator[None]:
    """Cycles are looked for as often as users' interpreters do, and not as seldom as in tests."""
    thresholds = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*thresholds)


@pytest.mark.slow  # starts processes that build
def test_memory_does_not_grow_with_the_cells(tmp_path: Path, usual_collector: None) -> None:
    genes = [f"G{i}" for i in range(100)]
    paths = [on_disk(filled(2000, genes, rng=i), tmp_path / f"m{i}.h5ad") for i in range(8)]
    build(tmp_path, filled())  # what is imported once is not counted
    peaks = {}
    for n in (1, 8):
        tracemalloc.start(1)
        sc_cll.pp.build_corpus(paths[:n], tmp_path / f"{n}.zarr", vocab=genes, memory="1MB")
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(list((tmp_path / f"{n}.zarr").glob("train/dataset_*"))) > 1
    per_cell = (peaks[8] - peaks[1]) / (
        7 * 2000
    )  # what the plan knows of a cell; its counts take 70 times 12 bytes
    assert per_cell < 120
    assert peaks[8] < 3 * 10**6


# -- arguments
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            {"memory": "much"},
            ValueError,
            "memory must be a size such as '1GB', '500MB' or a number of bytes; found 'much'",
        ),
        ({"memory": 0}, ValueError, "memory must be a size"),
        (
            {"on_error": "ignore"},
            ValueError,
            "on_error must be one of 'raise', 'skip'; found 'ignore'",
        ),
        ({"val_fraction": 2}, ValueError, "val_fraction must be a number from 0 to 1"),
        ({"min_genes": 0}, ValueError, "min_genes must be a whole number from 1 to 30"),
        ({"rng": None}, ValueError, "rng must be a whole number"),
        ({"method": "log10"}, ValueError, "method must be one of"),
        (
            {"obs_columns": ["type"]},
            KeyError,
            "obs_columns names 'type', which none of the 1 files has in obs",
        ),
        (
            {"obs_columns": "source"},
            ValueError,
            "obs_columns names 'source', which every corpus has",
        ),
        ({"layer": "counts"}, ValueError, "f0.h5ad: 'counts' is not in adata.layers"),
        ({"min_genes": 30}, ValueError, r"No cell is left: 0 of 1 files .* has 30 expressed genes"),
    ],
)
def test_arguments(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        build(tmp_path, filled(), **arguments)
    assert not (tmp_path / "corpus.zarr").exists()


def test_paths(tmp_path: Path) -> None:
    path = on_disk(filled(), tmp_path / "a.h5ad")
    for paths, error, sentence in (
        ([], ValueError, "paths names no file"),
        (5, TypeError, "paths must be files .* found int"),
        ([path, tmp_path / "b.h5ad"], FileNotFoundError, "1 of 2 files are not there: .*b.h5ad"),
        ([path, tmp_path / "." / "a.h5ad"], ValueError, "names a file more than once"),
    ):
        with pytest.raises(error, match=sentence):
            sc_cll.pp.build_corpus(paths, tmp_path / "c.zarr", vocab=GENES)


def test_numbers_here_and_text_there(tmp_path: Path) -> None:
    a, b = filled(), filled(rng=1)
    a.obs["age"], b.obs["age"] = 5, "old"
    with pytest.raises(
        ValueError, match=r"obs\['age'\] holds numbers in 'f0.h5ad' and text in 'f1.h5ad'"
    ):
        build(tmp_path, a, b, obs_columns=["age"])


def test_genes_first_needs_memory(tmp_path: Path) -> None:
    adata = filled(400)
    adata.X = adata.X.tocsc()
    with pytest.raises(
        ValueError, match=r"stored by genes \(CSC\) and needs .* Raise memory, or write it by cells"
    ):
        build(tmp_path, adata)
    assert stored(build(tmp_path, adata, memory="10MB")).n_obs == 400


def test_tokens_are_no_counts(tmp_path: Path) -> None:
    adata = filled(60, genes=[f"G{i}" for i in range(300)])
    sc_cll.pp.bin_expression(adata)
    with pytest.raises(ValueError, match="its layer holds tokens"):
        build(tmp_path, adata, layer="binned")
    adata.X = adata.layers["binned"].astype(np.float32)
    with pytest.raises(
        ValueError, match=r"looks binned already \(its largest value is 5, n_bins=5\)"
    ):
        build(tmp_path, adata, vocab=list(adata.var_names))


def test_annbatch_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"annbatch, which is not installed: pip install 'scbert-cll\[corpus\]'"
    ):
        build(tmp_path, filled())


# -- genes by any name
# --------------------------------------------------------------------------------------------------

SYMBOLS = ["ITGA4", "CD19", "SEPT7", "MS4A1", "CD5"]
IDS = [f"ENSG00000{n}" for n in ("115232", "177455", "122545", "156738", "110448")]


def test_files_with_other_names_are_one_corpus(tmp_path: Path) -> None:
    files = [filled(20, SYMBOLS, rng=i) for i in range(4)]
    expected = {f"{i}:{n}": row for i, a in enumerate(files) for n, row in named_rows(a).items()}
    files[1].var_names = ["CD49D", "CD19", "SEPTIN7", "CD20", "CD5"]
    files[2].var["feature_name"] = pd.Categorical(SYMBOLS)
    files[2].var_names = [f"{one}.2" for one in IDS]
    files[3].var_names = IDS
    corpus = build(tmp_path, *files, vocab=SYMBOLS, binned=False, val_fraction=0)
    found = stored(corpus)
    for name, row in zip(found.obs_names, found[:, SYMBOLS].X.toarray(), strict=True):
        assert row.tolist() == expected[name], name
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["params"]["name_table"] == shipped().label
    assert [source["counts_used"] for source in manifest["sources"]] == [1.0] * 4
    renamed = [source["renamed"] for source in manifest["sources"]]
    assert renamed[1] == {"CD49D": "ITGA4", "SEPTIN7": "SEPT7", "CD20": "MS4A1"}
    assert renamed[2] == {}


def named_rows(adata: AnnData) -> dict[str, list[float]]:
    return dict(zip(adata.obs_names, adata.X.toarray().tolist(), strict=True))


def test_a_column_of_names_is_named(tmp_path: Path) -> None:
    adata = filled(20, SYMBOLS)
    adata.var["mine"], adata.var_names = SYMBOLS[::-1], [f"x{i}" for i in range(5)]
    arguments: dict[str, Any] = {"vocab": SYMBOLS, "binned": False, "val_fraction": 0}
    corpus = build(tmp_path, adata, gene_key="mine", **arguments)
    found = stored(corpus)[:, SYMBOLS[::-1]]
    rows = {f"0:{name}": row for name, row in named_rows(adata).items()}
    assert dict(zip(found.obs_names, found.X.toarray().tolist(), strict=True)) == rows
    (tmp_path / "second").mkdir()
    with pytest.raises(ValueError, match=r"f0\.h5ad: 'other' is not in adata\.var"):
        build(tmp_path / "second", adata, gene_key="other", **arguments)


def test_half_of_the_counts_or_of_the_vocabulary(tmp_path: Path) -> None:
    """G0 has most of the counts, and is one of four genes."""
    arguments: dict[str, Any] = {"vocab": ["G0", "A", "B", "C"], "val_fraction": 0}
    adata = filled(20, GENES[:5])
    corpus = build(tmp_path, adata, **arguments)
    (source,) = json.loads((corpus / "manifest.json").read_text())["sources"]
    assert source["counts_used"] == pytest.approx(adata.X[:, 0].sum() / adata.X.sum())
    assert 0.5 < source["counts_used"] < 0.7
    for name, wish in {
        "95% of the counts": {"min_counts": 0.95},
        "50% of the vocabulary": {"min_matched": 0.5},
    }.items():
        folder = tmp_path / name[:2]
        folder.mkdir()
        with pytest.raises(ValueError, match=f"expected at least {name}"):
            build(folder, filled(20, GENES[:5]), **arguments, **wish)


def test_mixed_names_and_dates_are_told(tmp_path: Path) -> None:
    mixed = filled(20, [*SYMBOLS, *IDS[:3]])
    with pytest.raises(ValueError, match=r"f0\.h5ad: .*mixes symbols \(62%.*Ensembl ids \(38%"):
        build(tmp_path, mixed, vocab=SYMBOLS, val_fraction=0)
    (tmp_path / "dates").mkdir()
    spoiled = filled(20, [*SYMBOLS, "1-Mar"])
    corpus = build(tmp_path / "dates", spoiled, vocab=SYMBOLS, val_fraction=0)
    (source,) = json.loads((corpus / "manifest.json").read_text())["sources"]
    assert source["dates"] == ["1-Mar"]
