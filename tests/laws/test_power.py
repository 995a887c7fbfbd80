"""Crash and power: after every prefix of what a writer did, the old version or the new one is read,
whole; when it has returned, the new one.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll._disk import formats
from scbert_cll._disk.cells import write_cells
from scbert_cll.datasets import _geo_series
from scbert_cll.model.training import checkpoints
from tests._make import graded_cells
from tests.laws.disk import Disk

GENES = [f"G{i}" for i in range(30)]
TINY = {
    "preset": "small",
    "n_hidden": 16,
    "n_layers": 1,
    "n_heads": 2,
    "dim_head": 8,
    "gene_embedding": "none",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    for i in range(2):
        graded_cells(i).write_h5ad(folder / f"f{i}.h5ad")
    return sorted(folder.iterdir())


def build(sources: list[Path], out: Path) -> None:
    sc_cll.pp.build_corpus(sources, out, vocab=GENES, memory="20KB", obs_columns=["kind"])


@pytest.fixture(scope="module")
def corpus(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    build(sources, out := tmp_path_factory.mktemp("corpus") / "c.zarr")
    return out


def model_of(corpus: Path, rng: int) -> sc_cll.model.ScBERT:
    return sc_cll.model.ScBERT.from_corpus(sc_cll.model.CorpusData(corpus), rng=rng, **TINY)


def checksums(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): formats.sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@dataclass
class Work:
    """What is written, and how it is told which version is there."""

    write: Callable[[Path, int], object]  # version 0 or 1
    read: Callable[[Path], Any]
    name: str
    made_once: bool = False  # of a name that is there nothing is replaced


def weights(path: Path) -> bytes:
    model = sc_cll.model.ScBERT.load(path, accelerator="cpu")
    return b"".join(tensor.numpy().tobytes() for tensor in model.module.state_dict().values())


def table_of(path: Path) -> str:
    """A table whose origin is told beside it; between two renames there may be another version's,
    and reading says so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "a.csv has changed since it was written: a.json says where an earlier version"
        )
        return str(sc_cll.io.read_csv(path).to_csv())


def both(version: int) -> Any:
    """Two modalities."""
    protein = AnnData(np.ones((40, 2), np.float32) * version, obs=graded_cells(0).obs[["donor"]])
    return mudata.MuData({"rna": graded_cells(version), "prot": protein})


@pytest.fixture(scope="module")
def works(sources: list[Path], corpus: Path) -> dict[str, Work]:
    models = [model_of(corpus, version) for version in (0, 1)]
    vocabularies = [sc_cll.vocab.GeneVocab(GENES[:n]) for n in (20, 25)]
    tables = [
        pd.DataFrame({"gene": GENES[:3], "weight": [1.0, 2.0, version]}) for version in (3.0, 4.0)
    ]

    def predict(out: Path, version: int) -> None:
        data = sc_cll.model.CorpusData(corpus, chunk_size=8, preload_nchunks=2)
        sc_cll.tl.predict_corpus(data, models[1], out, groupby="kind")

    return {
        "model": Work(lambda path, v: models[v].save(path, overwrite=True), weights, "model"),
        "csv": Work(
            lambda path, v: sc_cll.io.write_csv(tables[v], path, overwrite=True),
            table_of,
            "a.csv",
        ),
        "gmt": Work(
            lambda path, v: sc_cll.io.write_gmt(tables[v], path, name=f"V{v}", overwrite=True),
            sc_cll.io.read_gmt,
            "a.gmt",
        ),
        "json": Work(
            lambda path, v: formats.write_json(path, {"v": v}), formats.read_json, "a.json"
        ),
        "vocabulary": Work(
            lambda path, v: vocabularies[v].save(path),
            lambda path: list(sc_cll.vocab.GeneVocab.read(path)),
            "v.csv",
        ),
        "h5ad": Work(
            lambda path, v: write_cells(path, graded_cells(v)),
            lambda path: ad.read_h5ad(path).X.toarray().tolist(),
            "a.h5ad",
        ),
        "h5mu": Work(
            lambda path, v: write_cells(path, both(v)),
            lambda path: mudata.read_h5mu(path)["prot"].X.tolist(),
            "a.h5mu",
        ),
        "corpus": Work(
            lambda path, _: build(sources, path), _whole_corpus, "c.zarr", made_once=True
        ),
        "predictions": Work(predict, _whole_predictions, "p.zarr", made_once=True),
    }


def _whole_corpus(path: Path) -> dict[str, str]:
    assert not sc_cll.io.check_corpus(path)["problem"].any()
    return checksums(path)


def _whole_predictions(path: Path) -> dict[str, str]:
    ad.read_zarr(path)
    return checksums(path)


KINDS = ["model", "csv", "gmt", "json", "vocabulary", "h5ad", "h5mu", "corpus"]


def record(work: Work, root: Path, *, forcing: bool = True) -> tuple[Disk, list[Any]]:
    """Write the old version, then record how the new one takes its place; both as they are read."""
    path = root / "in" / "a folder" / work.name if work.made_once else root / work.name
    versions = []
    if not work.made_once:
        work.write(path, 0)
        versions.append(work.read(path))
    disk = Disk(root)
    with disk.recorded(forcing=forcing):
        work.write(path, 1)
    return disk, [*versions, work.read(path)]


def losses(work: Work, disk: Disk, versions: list[Any]) -> list[str]:
    """States of the disk in which neither version is read, or, when the call had returned, not the
    new one.
    """
    path = next(disk.root.rglob(work.name))
    found = []
    name = path.relative_to(disk.root).as_posix()
    for when, tree in disk.states.values():
        if work.made_once and name not in tree:
            continue  # nothing is there yet
        disk.lay(tree)
        try:
            said = work.read(path)
        except FileNotFoundError as error:
            if not work.made_once:
                found.append(f"{when}: {error}")
            continue
        except Exception as error:  # noqa: BLE001
            found.append(f"{when}: {error!r}")
            continue
        if said not in versions:
            found.append(f"{when}: something else is read")
    for tree in disk.last:
        disk.lay(tree)
        try:
            said = work.read(path)
        except Exception as error:  # noqa: BLE001
            said = error
        if said != versions[-1]:
            found.append(f"the call had returned, and its result is gone: {said!r}")
    return found


PREDICTIONS = pytest.param("predictions", marks=pytest.mark.slow)  # read from many states


@pytest.mark.parametrize("kind", [*KINDS, PREDICTIONS])
def test_after_a_crash_the_old_or_the_new_is_read(
    kind: str, works: dict[str, Work], tmp_path: Path
) -> None:
    disk, versions = record(works[kind], tmp_path)
    assert len(disk.states) >= 5
    assert not losses(works[kind], disk, versions)


@pytest.mark.parametrize("kind", ["model", "csv", "h5ad", "corpus"])
def test_a_writer_that_forces_nothing_is_found_out(
    kind: str, works: dict[str, Work], tmp_path: Path
) -> None:
    """The law bites."""
    disk, versions = record(works[kind], tmp_path, forcing=False)
    assert losses(works[kind], disk, versions)


@pytest.mark.slow  # what was cut short is done again, from many places
@pytest.mark.parametrize("kind", ["corpus", "predictions"])
def test_after_a_crash_the_same_call_ends_in_the_same_bytes(
    kind: str, works: dict[str, Work], tmp_path: Path
) -> None:
    work = works[kind]
    disk, (whole,) = record(work, tmp_path)
    path = next(tmp_path.rglob(work.name))
    states = list(disk.states.values())
    for when, tree in states[:: max(len(states) // 24, 1)]:
        disk.lay(tree)
        if not path.exists():
            work.write(path, 1)
        assert work.read(path) == whole, when


def test_after_a_crash_the_last_checkpoint_that_was_written_counts(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path)
    save = checkpoints.WholeCheckpoints.save_checkpoint

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        disk.returned += 1

    monkeypatch.setattr(checkpoints.WholeCheckpoints, "save_checkpoint", watched)
    data = sc_cll.model.CorpusData(corpus, chunk_size=8, preload_nchunks=2)
    how = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "batch_size": 8,
        "max_epochs": 1,
        "checkpoint_steps": 1,
    }
    with disk.recorded():
        model_of(corpus, 0).train(datamodule=data, checkpoint_dir=tmp_path / "run", **how)
    assert disk.returned >= 4
    for (when, tree), n in zip(disk.states.values(), disk.promised, strict=True):
        disk.lay(tree)
        folder = tmp_path / "run"
        whole = (
            [path for path in checkpoints.written(folder) if checkpoints.is_whole(path)]
            if n
            else []
        )
        assert not n or int(whole[-1].stem.removeprefix("step_")) >= n, when


def test_after_a_crash_a_series_is_not_there_or_whole(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "GSE99999_series_matrix.txt.gz"
    there = tmp_path / "geo" / "GSE99nnn" / "GSE99999" / "matrix"
    there.mkdir(parents=True)
    table = [
        "!series_matrix_table_begin",
        '"ID_REF"\t"GSM1"',
        '"a"\t1',
        '"b"\t2',
        "!series_matrix_table_end",
    ]
    head = [
        '!Series_geo_accession\t"GSE99999"',
        '!Sample_title\t"s"',
        '!Sample_geo_accession\t"GSM1"',
    ]
    (there / name).write_bytes(gzip.compress("\n".join([*head, *table, ""]).encode()))
    handler = functools.partial(Quiet, directory=str(tmp_path / "geo"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(_geo_series, "_BASE", f"http://127.0.0.1:{server.server_port}")
        (tmp_path / "here").mkdir()
        work = Work(
            lambda path, _: sc_cll.datasets.download_geo_series(
                "GSE99999", path.parent, overwrite=True
            ),
            lambda path: sc_cll.datasets.read_geo_series(path).X.tolist(),
            name,
            made_once=True,
        )
        disk = Disk(tmp_path / "here")
        with disk.recorded():
            work.write(tmp_path / "here" / name, 0)
        server.shutdown()
    assert not losses(work, disk, [work.read(tmp_path / "here" / name)])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""
