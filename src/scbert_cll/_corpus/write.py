"""The second pass: one dataset after another, each drawn from all files, shuffled and written."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.columns import Columns
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.plan import Run
from scbert_cll._corpus.scan import Request, Scan
from scbert_cll._disk.cells import differing
from scbert_cll._disk.formats import sha256, size_and_time, write_text
from scbert_cll._disk.in_place import written

SOURCE: Final = "source"
_COLLECTION: Final = {
    "encoding-type": "annbatch-preshuffled",
    "encoding-version": "0.1.0",
}  # annbatch's mark
_CELLS_PER_CHUNK: Final = 64
_SHARD: Final = "256MB"


@dataclass(frozen=True)
class Job:
    """Everything that a dataset is made from."""

    request: Request
    paths: Sequence[Path]
    scans: dict[int, Scan]
    stamps: dict[int, tuple[int, int]]  # of each file when it was scanned
    parts: dict[int, np.ndarray]  # of each file's cells
    donors: Sequence[str]
    columns: dict[str, list[str] | None]  # obs columns: their categories, None for numbers
    seed: int
    is_binned: bool

    @property
    def dtype(self) -> type[np.generic]:
        """What is stored."""
        return np.uint8 if self.is_binned else np.int32


class _Cells:
    """A dataset in the making: every cell goes straight to its final row."""

    def __init__(self, job: Job, lengths: np.ndarray, order: np.ndarray) -> None:
        n = len(order)
        self.order, self.filled = order, 0
        self.indptr = np.zeros(n + 1, np.int64)
        self.indptr[1 + order] = lengths
        np.cumsum(self.indptr, out=self.indptr)
        self.data, self.indices = (
            np.empty(self.indptr[-1], job.dtype),
            np.empty(self.indptr[-1], np.int32),
        )
        self.obs = {name: np.empty(n, dtype=object) for name in ("", _keys.DONOR, SOURCE)}
        self.obs |= {
            name: np.empty(n, dtype=object if kind is not None else float)
            for name, kind in job.columns.items()
        }

    def add(self, tokens: sparse.csr_matrix, obs: dict[str, np.ndarray], source: str) -> None:
        """Put cells, in the order of their runs, where they belong."""
        rows = self.order[self.filled : self.filled + tokens.shape[0]]
        self.filled += tokens.shape[0]
        lengths = np.diff(tokens.indptr)
        corpus_checks.still_the_same(
            same=np.array_equal(lengths, np.diff(self.indptr)[rows]), name=source
        )
        to = np.repeat(self.indptr[rows] - tokens.indptr[:-1], lengths) + np.arange(tokens.nnz)
        self.data[to], self.indices[to] = tokens.data, tokens.indices
        for name, found in obs.items():
            self.obs[name][rows] = found


def stamp(path: Path) -> tuple[int, int]:
    """Size of a file or folder, and when it was last written to."""
    return size_and_time(path)


def write_part(folder: Path) -> None:
    """The group of a part, which annbatch opens as a collection.

    What a power failure left of one is replaced.
    """
    group = {"attributes": _COLLECTION, "zarr_format": 3, "node_type": "group"}
    write_text(folder / "zarr.json", json.dumps(group, indent=2))


def write_dataset(
    folder: Path, part: str, number: int, runs: Sequence[Run], job: Job
) -> dict[str, Any]:
    """Read the cells of a dataset, write them and say what was written."""
    adata = _gathered(part, number, sorted(runs, key=lambda run: (run.file, run.start)), job)
    written(folder, lambda path: _write(path, adata), lambda path: _is(path, adata))
    matrix: Any = adata.X
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    sums = {name: [files[name].stat().st_size, sha256(files[name])] for name in sorted(files)}
    return {"name": folder.name, "n_cells": adata.n_obs, "n_tokens": int(matrix.nnz), "files": sums}


def _write(folder: Path, adata: AnnData) -> None:
    """Write through annbatch, every chunk with a checksum of its own."""
    import annbatch
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    shutil.rmtree(folder, ignore_errors=True)
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    codecs = (BloscCodec(cname="lz4", clevel=3, shuffle="shuffle"), Crc32cCodec())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        annbatch.write_sharded(
            group, adata, n_obs_per_chunk=_CELLS_PER_CHUNK, shard_size=_SHARD, compressors=codecs
        )
    # What zarr consolidates lists arrays in the order the disk does; each array has its own
    # metadata, so the copy goes.
    root = folder / "zarr.json"
    metadata = json.loads(root.read_text(encoding="utf-8"))
    metadata.pop("consolidated_metadata", None)
    write_text(root, json.dumps(metadata, indent=2, sort_keys=True) + "\n")


def _is(folder: Path, adata: AnnData) -> bool:
    """Whether the cells can be read back as they are."""
    import zarr

    return not list(differing(zarr.open_group(folder, mode="r"), adata))


def _gathered(part: str, number: int, runs: Sequence[Run], job: Job) -> AnnData:
    """The cells of some runs in random order."""
    mine = [job.parts[run.file][run.start : run.stop] == PARTS.index(part) for run in runs]
    lengths = np.concatenate(
        [
            job.scans[run.file].n_tokens[run.start : run.stop][own]
            for run, own in zip(runs, mine, strict=True)
        ]
    )
    order = np.random.default_rng([job.seed, PARTS.index(part), number]).permutation(len(lengths))
    cells = _Cells(job, lengths, order)
    for file in sorted({run.file for run in runs}):
        _add_file(cells, file, [run for run in runs if run.file == file], PARTS.index(part), job)
    X = sparse.csr_matrix(
        (cells.data, cells.indices, cells.indptr), shape=(len(order), len(job.request.vocab))
    )
    obs = pd.DataFrame(
        {name: _column(name, found, job) for name, found in cells.obs.items() if name}
    )
    obs.index = pd.Index(cells.obs[""], dtype=object)
    return AnnData(X=X, obs=obs, var=pd.DataFrame(index=job.request.vocab.names))


def _add_file(cells: _Cells, file: int, runs: Sequence[Run], part: int, job: Job) -> None:
    """Read the runs of one file."""
    scanned = job.scans[file]
    columns = Columns(scanned.index, len(job.request.vocab))
    corpus_checks.still_the_same(
        same=stamp(job.paths[file]) == job.stamps[file], name=scanned.record["file"]
    )
    with job.request.open(job.paths[file]) as source:
        for run in runs:
            for start, stop in source.blocks(run.start, run.stop, job.request.n_values):
                mine = np.flatnonzero(job.parts[file][start:stop] == part)
                if len(mine):
                    tokens = job.request.cut(
                        job.request.aligned(source, columns, start, stop)[mine]
                    )
                    tokens.sort_indices()
                    cells.add(
                        tokens, _obs(source, file, start, stop, mine, job), scanned.record["file"]
                    )


def _obs(
    source: Any, file: int, start: int, stop: int, mine: np.ndarray, job: Job
) -> dict[str, np.ndarray]:
    """Name, donor, file and the columns asked for."""
    record = job.scans[file].record
    donors = np.array(list(record["donors"]), dtype=object)
    found = {
        "": np.array([f"{file}:{name}" for name in source.names(start, stop)[mine]], dtype=object),
        _keys.DONOR: donors[job.scans[file].donor[start:stop][mine]],
        SOURCE: np.full(len(mine), record["file"], dtype=object),
    }
    for key, categories in job.columns.items():
        column = source.column(key, start, stop)
        if column is None:
            found[key] = np.full(len(mine), np.nan, dtype=float if categories is None else object)
        elif categories is None:
            found[key] = column.to_numpy(dtype=float, na_value=np.nan)[mine]
        else:
            found[key] = (
                column.astype(object).where(column.notna(), None).to_numpy(dtype=object)[mine]
            )
    return found


def _column(name: str, found: np.ndarray, job: Job) -> Any:
    """A column of obs, with the categories of the whole corpus."""
    known: dict[str, Callable[[], Sequence[str]]] = {
        _keys.DONOR: lambda: job.donors,
        SOURCE: lambda: [scanned.record["file"] for scanned in job.scans.values()],
    }
    categories = known[name]() if name in known else job.columns[name]
    if categories is None:
        return found
    return pd.Categorical(
        _checks.people.class_names(pd.Series(found, dtype=object)), categories=list(categories)
    )
