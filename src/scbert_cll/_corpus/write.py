"""The second pass: one dataset after another, each drawn from all files, shuffled and written."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _keys
from scbert_cll._checks.people import class_names
from scbert_cll._corpus.columns import Columns
from scbert_cll._corpus.format import PARTS, SOURCE
from scbert_cll._corpus.plan import Run
from scbert_cll._corpus.request import Request
from scbert_cll._corpus.scan import Scan
from scbert_cll._corpus.sources import Source
from scbert_cll._disk.cells import differing
from scbert_cll._disk.formats import sha256, size_and_time, write_text
from scbert_cll._disk.in_place import written

# annbatch's mark
_COLLECTION: Final = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
_CELLS_PER_CHUNK: Final = 64
_SHARD: Final = "256MB"
_NAME: Final = ""  # the cells' names, among their columns


@dataclass(frozen=True)
class Job:
    """Everything that a dataset is made from."""

    request: Request
    paths: Sequence[Path]
    scans: Mapping[int, Scan]
    stamps: Mapping[int, tuple[int, int]]  # of each file when it was scanned
    parts: Mapping[int, np.ndarray]  # of each file's cells
    donors: Sequence[str]
    columns: Mapping[str, list[str] | None]  # obs columns: their categories, None for numbers

    @property
    def categories(self) -> dict[str, list[str] | None]:
        """Categories of all columns of obs, over the whole corpus."""
        files = [scanned.file for scanned in self.scans.values()]
        return {_keys.DONOR: list(self.donors), SOURCE: files, **self.columns}


class _Cells:
    """A dataset in the making: every cell goes straight to its final row."""

    def __init__(self, job: Job, lengths: np.ndarray, order: np.ndarray) -> None:
        n = len(order)
        self.order, self.n_filled = order, 0
        self.indptr = np.zeros(n + 1, np.int64)
        self.indptr[1 + order] = lengths
        np.cumsum(self.indptr, out=self.indptr)
        self.data = np.empty(self.indptr[-1], job.request.dtype)
        self.indices = np.empty(self.indptr[-1], np.int32)
        self.obs = {_NAME: np.empty(n, dtype=object)}
        for name, categories in job.categories.items():
            self.obs[name] = np.empty(n, dtype=float if categories is None else object)

    def add(self, tokens: sparse.csr_matrix, obs: Mapping[str, np.ndarray], file: str) -> None:
        """Put cells, in the order of their runs, where they belong."""
        rows = self.order[self.n_filled : self.n_filled + tokens.shape[0]]
        self.n_filled += tokens.shape[0]
        lengths = np.diff(tokens.indptr)
        if not np.array_equal(lengths, np.diff(self.indptr)[rows]):
            raise _changed(file)
        to = np.repeat(self.indptr[rows] - tokens.indptr[:-1], lengths) + np.arange(tokens.nnz)
        self.data[to], self.indices[to] = tokens.data, tokens.indices
        for name, values in obs.items():
            self.obs[name][rows] = values


def _changed(file: str) -> ValueError:
    return ValueError(
        f"{file} changed while the corpus was built; leave files alone until it is done, and build "
        f"anew."
    )


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
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    sums = {
        name: [files[name].stat().st_size, sha256(files[name])]
        for name in sorted(files)
        if files[name].is_file()
    }
    n = {"n_cells": adata.n_obs, "n_tokens": int(matrix.nnz)}
    return {"name": folder.name, **n, "files": sums}


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
        sizes: Any = {"n_obs_per_chunk": _CELLS_PER_CHUNK, "shard_size": _SHARD}
        annbatch.write_sharded(group, adata, compressors=codecs, **sizes)
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
    code = PARTS.index(part)
    lengths = [np.zeros(0, np.int32)]
    for run in runs:
        rows = slice(run.start, run.stop)
        lengths.append(job.scans[run.file].n_tokens[rows][job.parts[run.file][rows] == code])
    n_tokens = np.concatenate(lengths)
    order = np.random.default_rng([job.request.rng, code, number]).permutation(len(n_tokens))
    cells = _Cells(job, n_tokens, order)
    for file in sorted({run.file for run in runs}):
        _add_file(cells, file, [run for run in runs if run.file == file], code, job)
    shape = len(order), len(job.request.vocab)
    X = sparse.csr_matrix((cells.data, cells.indices, cells.indptr), shape=shape)
    index = pd.Index(cells.obs.pop(_NAME), dtype=object)
    categories = job.categories
    obs = pd.DataFrame({name: _column(cells.obs[name], categories[name]) for name in cells.obs})
    obs.index = index
    return AnnData(X=X, obs=obs, var=pd.DataFrame(index=job.request.vocab.names))


def _add_file(cells: _Cells, file: int, runs: Sequence[Run], part: int, job: Job) -> None:
    """Read the runs of one file."""
    scanned, path, request = job.scans[file], job.paths[file], job.request
    columns = Columns(scanned.index, len(request.vocab))
    if size_and_time(path) != job.stamps[file]:
        raise _changed(scanned.file)
    with request.open(path) as source:
        blocks = (
            block for run in runs for block in source.blocks(run.start, run.stop, request.n_values)
        )
        for start, stop in blocks:
            mine = np.flatnonzero(job.parts[file][start:stop] == part)
            if len(mine):
                tokens = request.cut(request.aligned(source, columns, start, stop)[mine])
                tokens.sort_indices()
                cells.add(tokens, _obs(source, file, start, stop, mine, job), scanned.file)


def _obs(
    source: Source, file: int, start: int, stop: int, mine: np.ndarray, job: Job
) -> dict[str, np.ndarray]:
    """Name, donor, file and the columns asked for."""
    scanned = job.scans[file]
    donors = np.array(list(scanned.record["donors"]), dtype=object)
    names = [f"{file}:{name}" for name in source.names(start, stop)[mine]]
    obs = {
        _NAME: np.array(names, dtype=object),
        _keys.DONOR: donors[scanned.donor[start:stop][mine]],
        SOURCE: np.full(len(mine), scanned.file, dtype=object),
    }
    for key, categories in job.columns.items():
        column = source.column(key, start, stop)
        dtype: Any = float if categories is None else object
        if column is None:
            obs[key] = np.full(len(mine), np.nan, dtype=dtype)
        elif categories is None:
            obs[key] = column.to_numpy(dtype=float, na_value=np.nan)[mine]
        else:
            text = column.astype(object).where(column.notna(), None)
            obs[key] = text.to_numpy(dtype=object)[mine]
    return obs


def _column(values: np.ndarray, categories: Sequence[str] | None) -> Any:
    """A column of obs, with the categories of the whole corpus."""
    if categories is None:
        return values
    return pd.Categorical(class_names(pd.Series(values, dtype=object)), categories=list(categories))
