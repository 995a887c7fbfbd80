"""The second pass: one dataset after another, each drawn from all files, shuffled and written.

Before that: which donors go to which part, which runs of cells to which dataset, and what many
files have in common, their obs columns and donors.

annbatch's own `DatasetCollection.add_adatas` deals cells, not donors, wants equal genes and cannot
go on after an interruption. Here all is drawn from one seed before the first cell is written, so
that a build gone on with ends in the same bytes.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _keys
from scbert_cll._checks import people
from scbert_cll._checks.words import closest_first, listed
from scbert_cll._corpus.format import PARTS, SOURCE, listing
from scbert_cll._corpus.scan import Request, Scan, Scans
from scbert_cll._corpus.sources import Columns, Source
from scbert_cll._disk.cells import differing
from scbert_cll._disk.formats import Json, size_and_time, write_text
from scbert_cll._disk.in_place import written

# Bytes of memory a stored value of a dataset takes until it is written, besides three times its
# own: gene, what zarr makes of it.
_BYTES_PER_VALUE: Final = 9
# Neighbouring cells that are read together.
_RUN: Final = 512
_RUNS_PER_DATASET: Final = 16
_SIDES: Final = 17  # stream of random numbers


type CellParts = Mapping[int, np.ndarray]  # number in PARTS of each cell of a file
# columns of obs: their categories, None for numbers
type ObsColumns = dict[str, list[str] | None]
type Runs = list[list[Run]]  # of each dataset

# annbatch's mark
_ENCODING: Final = "annbatch-preshuffled"
_COLLECTION: Final = {"encoding-type": _ENCODING, "encoding-version": "0.1.0"}
_CELLS_PER_CHUNK: Final = 64
_SHARD: Final = "256MB"
_NAME: Final = ""  # the cells' names, among their columns

type Obs = dict[str, np.ndarray]  # columns of some cells


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of a file, of which a dataset gets those of its part."""

    file: int
    start: int
    stop: int
    n_tokens: int


def deal_donors(cells: Mapping[str, int], request: Request) -> list[str]:
    """Donors of the validation part: those that are named, or drawn.

    Whole donors in random order, as long as that brings the part closer to its share of the cells.
    """
    donors = sorted(name for name, n in cells.items() if n)
    if request.val_donors is not None:
        return _named(request.val_donors, donors)
    if request.val_fraction == 0:
        return []
    if len(donors) < 2:
        raise ValueError(
            f"Validation holds donors out and needs at least two; found {listed(donors)}. "
            f"val_fraction=0 builds a corpus without a validation part; donor_key names the obs "
            f"column of donors."
        )
    wanted, n_chosen, chosen = request.val_fraction * sum(cells.values()), 0, list[str]()
    for i in np.random.default_rng([request.rng, _SIDES]).permutation(len(donors)):
        n_then = n_chosen + cells[donors[i]]
        is_closer = abs(n_then - wanted) < abs(n_chosen - wanted)
        if is_closer and len(chosen) < len(donors) - 1:
            chosen.append(donors[i])
            n_chosen = n_then
    return sorted(chosen) or [min(donors, key=lambda name: (cells[name], name))]


def _named(val_donors: object, donors: Sequence[str]) -> list[str]:
    """Donors that exist, and not all of them."""
    if isinstance(val_donors, str) or not isinstance(val_donors, Iterable):
        val_donors = [val_donors]
    names = sorted(set(map(people.donor_name, val_donors)))
    if unknown := [name for name in names if name not in donors]:
        raise KeyError(
            f"val_donors names {listed(unknown)}, which no kept cell has; the donors are "
            f"{listed(closest_first(unknown[0], donors), 12)}."
        )
    if not 0 < len(names) < len(donors):
        raise ValueError(
            f"val_donors must leave donors on both sides; it names {len(names)} of {len(donors)}. "
            f"Without validation: val_fraction=0."
        )
    return names


def parts_of(scanned: Scan, val_donors: Sequence[str]) -> np.ndarray:
    """Number of each cell's part in PARTS, −1 where it is left out."""
    donors = scanned.record["donors"]
    is_val = np.array([name in val_donors for name in donors], dtype=bool)
    return np.where(scanned.n_tokens > 0, is_val[scanned.donor], -1).astype(np.int8)


def deal_runs(scans: Scans, parts: CellParts, part: str, request: Request) -> Runs:
    """Runs of each dataset of a part, in random order over all files.

    Datasets are about equal and fit into the memory.
    """
    number = PARTS.index(part)
    n_bytes = _BYTES_PER_VALUE + 3 * np.dtype(request.dtype).itemsize
    most = int(np.clip(request.memory // n_bytes, 1, 2**31 - 1))
    mine = {i: parts[i] == number for i in scans}
    n_cells = sum(int(mine[i].sum()) for i in scans)
    if n_cells == 0:
        return []
    n_tokens = sum(int(scans[i].n_tokens[mine[i]].sum(dtype=np.int64)) for i in scans)
    length = int(np.clip(most * n_cells // n_tokens // _RUNS_PER_DATASET, 1, _RUN))
    runs = [run for i in scans for run in _runs(i, scans[i].n_tokens, mine[i], length)]
    order = np.random.default_rng([request.rng, number]).permutation(len(runs))
    shuffled = [runs[i] for i in order]
    before = np.cumsum([0, *(run.n_tokens for run in shuffled[:-1])])
    n_datasets = -(-n_tokens // most)
    dataset = before * n_datasets // n_tokens
    cuts = [0, *(np.flatnonzero(np.diff(dataset)) + 1).tolist(), len(shuffled)]
    return [shuffled[start:stop] for start, stop in pairwise(cuts)]


def _runs(file: int, n_tokens: np.ndarray, mine: np.ndarray, length: int) -> list[Run]:
    """Runs of a file with a cell of the part."""
    starts = np.arange(0, len(n_tokens), length)
    tokens = np.add.reduceat(np.where(mine, n_tokens, 0).astype(np.int64), starts)
    return [
        Run(file, start, min(start + length, len(n_tokens)), n)
        for start, n in zip(starts.tolist(), tokens.tolist(), strict=True)
        if n
    ]


def merged_columns(scans: Sequence[Scan], keys: Sequence[str]) -> ObsColumns:
    """Categories of each obs column over all files, None where it holds numbers."""
    columns = {key: [s for s in scans if key in s.record["columns"]] for key in keys}
    if absent := [key for key, having in columns.items() if not having]:
        raise KeyError(
            f"obs_columns names {listed(absent)}, which none of the {len(scans)} files has in obs."
        )
    merged: ObsColumns = {}
    for key, having in columns.items():
        kinds = {scanned.file: scanned.record["columns"][key] for scanned in having}
        numbers = [file for file, categories in kinds.items() if categories is None]
        texts = [file for file, categories in kinds.items() if categories]
        if numbers and texts:
            raise ValueError(
                f"obs[{key!r}] holds numbers in {listed(numbers, 3)} and text in "
                f"{listed(texts, 3)}; make it one kind, or leave it out of obs_columns."
            )
        used = {name for categories in kinds.values() for name in categories or ()}
        order = _one_order([scanned.record["order"][key] for scanned in having])
        merged[key] = None if numbers else [name for name in order if name in used]
    return merged


def _one_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """Categories in the order of the files, where these agree on one; else sorted."""
    longest = max(orders, key=len)
    if all(order == [name for name in longest if name in order] for order in orders):
        return list(longest)
    return people.sorted_names({name for order in orders for name in order})


def cells_of_donors(scans: Iterable[Scan], donor_key: str | None) -> dict[str, int]:
    """Kept cells of each donor over all files; warns of those left out, and of donors alike."""
    cells, left_out = Counter[str](), Counter[str]()
    for scanned in scans:
        cells.update(scanned.record["donors"])
        left_out.update(scanned.record["not_donors"])
    where = f"obs[{donor_key!r}]"
    people.warn_of_not_donors(left_out, people.people_of(cells)[1], where)
    people.warn_of_alike([name for name, n in cells.items() if n], where)
    return {name: n for name, n in sorted(cells.items()) if n}


def donors_per_part(donors: Iterable[str], val: Sequence[str]) -> dict[str, list[str]]:
    """Donors with a cell, by part."""
    return {_keys.TRAIN: sorted(set(donors).difference(val)), _keys.VAL: sorted(val)}


# ---- one dataset


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
        lengths.append(job.scans[file].n_tokens[rows][job.parts[file][rows] == code])
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
            obs[name] = pd.Categorical(people.class_names(obs[name]), categories)
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
