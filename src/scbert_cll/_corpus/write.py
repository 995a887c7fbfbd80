"""The second pass: one dataset after another, each drawn from all files, shuffled and written."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _keys
from scbert_cll._checks.people import class_names
from scbert_cll._corpus.columns import Columns
from scbert_cll._corpus.format import PARTS, SOURCE, listing
from scbert_cll._corpus.plan import CellParts, ObsColumns, Run
from scbert_cll._corpus.request import Request
from scbert_cll._corpus.scan import Scans
from scbert_cll._corpus.sources import Source
from scbert_cll._disk.cells import differing
from scbert_cll._disk.formats import Json, size_and_time, write_text
from scbert_cll._disk.in_place import written

# annbatch's mark
_ENCODING: Final = "annbatch-preshuffled"
_COLLECTION: Final = {"encoding-type": _ENCODING, "encoding-version": "0.1.0"}
_CELLS_PER_CHUNK: Final = 64
_SHARD: Final = "256MB"
_NAME: Final = ""  # the cells' names, among their columns

type Obs = dict[str, np.ndarray]  # columns of some cells


@dataclass(frozen=True)
class Job:
    """Everything that a dataset is made from."""

    request: Request
    paths: Sequence[Path]
    scans: Scans
    stamps: Mapping[int, tuple[int, int]]  # of each file when it was scanned
    parts: CellParts
    donors: Sequence[str]
    columns: ObsColumns

    @property
    def categories(self) -> ObsColumns:
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

    def add(self, tokens: sparse.csr_matrix, obs: Obs, file: str) -> None:
        """Put cells, in the order of their runs, where they belong."""
        rows = self.order[self.n_filled : self.n_filled + tokens.shape[0]]
        self.n_filled += tokens.shape[0]
        lengths = np.diff(tokens.indptr)
        if not np.array_equal(lengths, np.diff(self.indptr)[rows]):
            raise _changed(file)
        shift = self.indptr[rows] - tokens.indptr[:-1]
        to = np.repeat(shift, lengths) + np.arange(tokens.nnz)
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


def write_dataset(folder: Path, part: str, i: int, runs: list[Run], job: Job) -> Json:
    """Read the cells of a dataset, write them and say what was written."""
    runs = sorted(runs, key=attrgetter("file", "start"))
    adata = _gathered(part, i, runs, job)
    written(folder, lambda path: _write(path, adata), lambda path: _is(path, adata))
    matrix: Any = adata.X
    files = listing(folder, sorted(folder.rglob("*"), key=Path.as_posix))
    n = {"n_cells": adata.n_obs, "n_tokens": int(matrix.nnz)}
    return {"name": folder.name, **n, "files": files}


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


def _gathered(part: str, number: int, runs: list[Run], job: Job) -> AnnData:
    """The cells of some runs in random order."""
    code, request = PARTS.index(part), job.request
    lengths = [np.zeros(0, np.int32)]
    for run in runs:
        file, rows = run.file, slice(run.start, run.stop)
        is_mine = job.parts[file][rows] == code
        lengths.append(job.scans[file].n_tokens[rows][is_mine])
    n_tokens = np.concatenate(lengths)
    rng = np.random.default_rng([request.rng, code, number])
    order = rng.permutation(len(n_tokens))
    cells = _Cells(job, n_tokens, order)
    for file, of_file in groupby(runs, attrgetter("file")):
        _add_file(cells, file, list(of_file), code, job)
    shape = len(order), len(request.vocab)
    X = sparse.csr_matrix((cells.data, cells.indices, cells.indptr), shape=shape)
    index = pd.Index(cells.obs.pop(_NAME), dtype=object)
    obs = pd.DataFrame(cells.obs, index=index)
    for name, categories in job.categories.items():
        if categories is not None:
            obs[name] = pd.Categorical(class_names(obs[name]), categories)
    return AnnData(X=X, obs=obs, var=pd.DataFrame(index=request.vocab.names))


def _add_file(cells: _Cells, file: int, runs: list[Run], part: int, job: Job) -> None:
    """Read the runs of one file."""
    scanned, path, request = job.scans[file], job.paths[file], job.request
    genes, n_values = Columns(scanned.index, len(request.vocab)), request.n_values
    if size_and_time(path) != job.stamps[file]:
        raise _changed(scanned.file)
    with request.open(path) as source:
        blocks = (source.blocks(run.start, run.stop, n_values) for run in runs)
        for rows in chain.from_iterable(blocks):
            mine = np.flatnonzero(job.parts[file][rows] == part)
            if len(mine):
                tokens = request.cut(request.aligned(source, genes, rows)[mine])
                tokens.sort_indices()
                cells.add(tokens, _obs(source, file, rows, mine, job), scanned.file)


def _obs(source: Source, file: int, rows: slice, mine: np.ndarray, job: Job) -> Obs:
    """Name, donor, file and the columns asked for."""
    scanned = job.scans[file]
    donors = np.array(list(scanned.record["donors"]), dtype=object)
    names = [f"{file}:{name}" for name in source.names(rows)[mine]]
    obs = {
        _NAME: np.array(names, dtype=object),
        _keys.DONOR: donors[scanned.donor[rows][mine]],
        SOURCE: np.full(len(mine), scanned.file, dtype=object),
    }
    for key, categories in job.columns.items():
        column = source.column(key, rows)
        dtype: Any = float if categories is None else object
        if column is None:
            obs[key] = np.full(len(mine), np.nan, dtype=dtype)
        elif categories is None:
            obs[key] = column.to_numpy(dtype=float, na_value=np.nan)[mine]
        else:
            text = column.astype(object).where(column.notna(), None)
            obs[key] = text.to_numpy(dtype=object)[mine]
    return obs
