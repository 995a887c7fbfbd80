"""What a corpus is to be built of; and the first of two passes: what every file holds of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks import people
from scbert_cll._checks.counts import look_binned
from scbert_cll._checks.words import closest_first, listed, unique
from scbert_cll._corpus.sources import Columns, Source
from scbert_cll._disk.formats import Json, digest, size_and_time
from scbert_cll._gene_names.table import shipped
from scbert_cll._settings import settings
from scbert_cll.vocab import GeneVocab

# Bytes a stored value takes while a block is read, placed and binned (measured), and how many
# values a block has.
_BYTES_PER_VALUE: Final = 128
_FEWEST_VALUES, _MOST_VALUES = 2**12, 2**21
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?) *([KMGT]?)I?B?", re.IGNORECASE)
# parameters of a scan, by their names here, and those of what comes after
_READING: Final = (
    "gene_key",
    "min_counts",
    "min_matched",
    "min_genes",
    "modality",
    "cells",
    "layer",
    "donor_key",
    "obs_columns",
)
_DEALING: Final = ("val_fraction", "val_donors", "on_error", "rng", "memory")
_STEP: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Request:
    """What pp.build_corpus was called with, checked."""

    vocab: GeneVocab
    # as pp.bin_expression records it; None: counts stay counts
    binning: Json | None
    cut: Callable[[sparse.csr_matrix], sparse.csr_matrix]  # counts to what is stored
    n_bins: int
    layer: str | None
    modality: str | None
    cells: str | None
    aliases: Mapping[str, frozenset[str]] | None
    gene_key: str | None
    min_counts: float | None
    min_matched: float | None
    min_genes: int
    donor_key: str | None
    obs_columns: list[str]
    val_fraction: float
    val_donors: object
    on_error: str
    memory: int
    rng: int

    @property
    def dtype(self) -> type[np.generic]:
        """Of what is stored."""
        return np.int32 if self.binning is None else np.uint8

    @property
    def n_values(self) -> int:
        """Stored values of a block."""
        n_values = self.memory // 8 // _BYTES_PER_VALUE
        return int(np.clip(n_values, _FEWEST_VALUES, _MOST_VALUES))

    def reading(self) -> Json:
        """Parameters that decide what a scan of a file finds; what is long by its checksum."""
        cuts = aliases = None
        if self.binning is not None:
            edges = self.binning["edges"]
            text = edges.to_csv() if isinstance(edges, pd.DataFrame) else edges
            cuts = digest({**self.binning, "edges": text})
        if self.aliases is not None:
            names = self.aliases
            aliases = digest({name: sorted(names[name]) for name in names})
        return {
            "binned": self.binning is not None,
            **{name: getattr(self, name) for name in _READING},
            "layer": self.layer or "X",  # in its place among these
            "not_donors": sorted(settings.not_donors),
            "vocab": digest(list(self.vocab.names)),
            "binning": cuts,
            "aliases": aliases,
            "name_table": shipped().label,
        }

    def record(self) -> Json:
        """All parameters, as the manifest has them."""
        return {**self.reading(), **{name: getattr(self, name) for name in _DEALING}}

    def open(self, path: Path) -> Source:
        """A file, open for reading."""
        return Source(path, self.layer, self.memory, self.modality)

    def aligned(self, source: Source, genes: Columns, rows: slice) -> sparse.csr_matrix:
        """Counts of some cells for the vocabulary, without stored zeros; genes in any order."""
        counts = genes.placed(source.counts(rows))
        counts.eliminate_zeros()
        return counts


def memory_size(value: str | int) -> int:
    """Bytes of ``"1GB"``, ``"500 MB"`` or a number."""
    size = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    n_bytes = int(float(size[1]) * _STEP[size[2].upper()]) if size else 0
    if n_bytes < 1:
        raise ValueError(
            f"memory must be a size such as '1GB', '500MB' or a number of bytes; found {value!r}."
        )
    return n_bytes


def source_files(paths: Any) -> list[Path]:
    """Files that exist, each named once."""
    paths = [paths] if isinstance(paths, str | PathLike) else paths
    if not isinstance(paths, Iterable):
        raise TypeError(
            f"paths must be files (.h5ad, .h5mu, .zarr or 10x .h5); found {type(paths).__name__}."
        )
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError("paths names no file; expected .h5ad, .h5mu, .zarr, 10x .h5.")
    if absent := [str(file) for file in files if not file.exists()]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(files)} files are not there: {listed(absent)}."
        )
    resolved = [_checks.files.plain_or_folder(file).resolve() for file in files]
    places = zip(files, resolved, strict=True)
    if twice := sorted({str(f) for f, at in places if resolved.count(at) > 1}):
        names = listed(twice)
        raise ValueError(f"paths names a file more than once: {names}. Name each once.")
    return files


def labels(paths: Iterable[Path]) -> list[str]:
    """A name for each file: its last parts, as many as tell all files apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


# ---- the first pass


@dataclass(frozen=True)
class Scan:
    """What a file holds, or why it cannot be used."""

    record: Json
    n_tokens: np.ndarray  # (cells,) stored values of each; 0: left out
    donor: np.ndarray  # (cells,) number in record["donors"]
    index: np.ndarray  # (columns,) place in the vocabulary

    @property
    def reason(self) -> str | None:
        """Why the file cannot be used, if it cannot."""
        return self.record.get("reason")

    @property
    def file(self) -> str:
        """Name of the file, as the manifest has it."""
        return str(self.record["file"])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All of it but the record."""
        return {"n_tokens": self.n_tokens, "donor": self.donor, "index": self.index}


type Scans = Mapping[int, Scan]  # by the number of their file


class _Column:
    """Kind and categories of a column of obs, learned block by block."""

    def __init__(self) -> None:
        self.kind = "empty"  # of values
        self._names: set[str] = set()
        self.order: list[str] | None = None  # of categories, in the file

    def add(self, column: pd.Series) -> None:
        present = column.dropna()
        if len(present):
            is_number = is_numeric_dtype(present) and not is_bool_dtype(present)
            self.kind = "number" if is_number else "text"
        if self.kind == "text":
            self._names.update(people.class_names(present).unique())
            if self.order is None and isinstance(column.dtype, pd.CategoricalDtype):
                self.order = people.class_order(column, unused=True)

    @property
    def names(self) -> list[str]:
        """Of its values, sorted."""
        return people.sorted_names(self._names)

    @property
    def categories(self) -> list[str] | None:
        """The same, None where it holds numbers."""
        return None if self.kind == "number" else self.names


class _Tally:
    """Cells, donors and columns, learned block by block."""

    def __init__(self, n_cells: int) -> None:
        self.n_tokens = np.zeros(n_cells, np.int32)
        self.donor = np.zeros(n_cells, np.int32)
        self.names = np.zeros(n_cells, np.uint64)  # hashes of them
        self.donors: dict[str, int] = {}
        self.columns: dict[str, _Column] = {}
        self.not_donors: dict[str, int] = {}
        self.largest, self.n_at_top, self.n_used = 0.0, 0, 0.0

    def leave_out_no_donors(self, where: str) -> None:
        """Cells of no donor are not kept."""
        names, words = people.people_of(self.donors)
        if not names:
            people.no_donor(words, where)
        for name in words:
            cells = (self.donor == self.donors[name]) & (self.n_tokens > 0)
            if cells.any():
                self.not_donors[name] = int(cells.sum())
            self.n_tokens[cells] = 0

    def record(self) -> Json:
        """What became of the cells."""
        is_kept = self.n_tokens > 0
        per_donor = Counter(self.donor[is_kept].tolist())
        columns = self.columns.items()
        return {
            "n_cells": len(is_kept),
            "n_kept": int(is_kept.sum()),
            "n_tokens": int(self.n_tokens.sum(dtype=np.int64)),
            "donors": {name: per_donor[code] for name, code in self.donors.items()},
            "not_donors": self.not_donors,
            "columns": {key: column.categories for key, column in columns},
            "order": {key: column.order or column.names for key, column in columns},
        }


def scan(path: Path, head: Json, request: Request) -> Scan:
    """Read all of a file once and say what it holds.

    Raises
    ------
    ValueError
        It cannot be used; the sentence says why.
    """
    vocab = request.vocab
    with request.open(path) as source:
        if source.is_binned:
            raise ValueError(
                "its layer holds tokens of pp.bin_expression; name the layer with the raw counts."
            )
        genes = source.resolve(vocab, request.aliases, request.gene_key)
        columns = Columns(genes["index"].to_numpy(), len(vocab))
        missing = vocab.names[columns.per_gene == 0]
        needed = _checks.genes.Needed(request.min_counts, request.min_matched)
        coverage = genes[genes["how"] != "no gene"], missing, len(vocab), needed
        _checks.genes.vocabulary_coverage(*coverage)
        tally = _tallied(source, columns, head["file"], request)
        counts_used = tally.n_used / source.n_counts if source.n_counts else 1.0
        _checks.genes.vocabulary_coverage(*coverage, counts_used)
        if request.donor_key is not None and not source.is_10x:
            tally.leave_out_no_donors(f"obs[{request.donor_key!r}]")
        # only then are names read again
        if len(np.unique(tally.names)) < len(tally.names):
            names = pd.Index(source.names(slice(None)))
            unique(names, "obs_names", "adata.obs_names_make_unique()")
        # of all cells: a block may hold small counts only
        shape = source.n_cells, len(vocab)
        if look_binned(tally.largest, tally.n_at_top, shape, request.n_bins):
            raise ValueError(
                f"looks binned already (its largest value is {tally.largest:g}, "
                f"n_bins={request.n_bins}); a corpus is built from raw counts."
            )
        record = {
            **head,
            "size": size_and_time(path)[0],
            **_genes(genes, columns),
            "counts_used": counts_used,
            **tally.record(),
            "no_genes": source.others,
            "n_rounded": source.n_rounded,
        }
    return Scan(record, tally.n_tokens, tally.donor, genes["index"].to_numpy(np.int32))


def _tallied(source: Source, columns: Columns, label: str, request: Request) -> _Tally:
    """Go through the file."""
    tally, n_bins = _Tally(source.n_cells), request.n_bins
    for rows in source.blocks(0, source.n_cells, request.n_values):
        counts = request.aligned(source, columns, rows)
        n_tokens = np.diff(request.cut(counts).indptr)
        chosen = _chosen(source, request.cells, rows)
        is_kept = chosen & (np.diff(counts.indptr) >= request.min_genes)
        tally.n_tokens[rows] = np.where(is_kept, n_tokens, 0)
        tally.largest = max(tally.largest, counts.data.max(initial=0))
        tally.n_used += float(counts.data.sum())
        if tally.largest <= n_bins:
            tally.n_at_top += int((counts.max(axis=1) == n_bins).sum())
        donors = _donors(source, label, request.donor_key, rows, chosen)
        names, codes = np.unique(donors.astype(str), return_inverse=True)
        by_name = tally.donors
        numbers = [by_name.setdefault(str(name), len(by_name)) for name in names]
        tally.donor[rows] = np.asarray(numbers, dtype=np.int32)[codes]
        tally.names[rows] = pd.util.hash_array(source.names(rows))
        for key in request.obs_columns:
            if (column := source.column(key, rows)) is not None:
                tally.columns.setdefault(key, _Column()).add(column)
    return tally


def _chosen(source: Source, key: str | None, rows: slice) -> np.ndarray:
    """Which cells a column of true and false chooses; all where none is named."""
    if key is None:
        return np.ones(rows.stop - rows.start, dtype=bool)
    column = _column(source, key, rows, "cells= names a column of true and false.")
    kinds = column.unique()
    is_bool = all(isinstance(value, bool | np.bool_) for value in kinds)
    if column.isna().any() or not is_bool:
        raise ValueError(
            f"obs[{key!r}], which cells= names, must be true or false for every cell; found "
            f"{listed(kinds)}."
        )
    return np.asarray(column, dtype=bool)


def _donors(
    source: Source, label: str, key: str | None, rows: slice, chosen: np.ndarray
) -> np.ndarray:
    """Donor of each cell; the file's name without its ending where it says nothing of donors."""
    if key is None or source.is_10x:
        one = label.removesuffix(Path(label).suffix)
        return np.full(len(chosen), one, dtype=object)
    remedy = "Name the donors' column (donor_key); None takes each file for one donor."
    column = _column(source, key, rows, remedy)
    missing = column.isna().to_numpy() & chosen
    if missing.any():
        raise ValueError(
            f"obs[{key!r}] is missing for {missing.sum()} cells "
            f"({listed(source.names(rows)[missing])}); fill it or drop these cells."
        )
    return people.named(column, people.donor_name).to_numpy(dtype=object)


def _column(source: Source, key: str, rows: slice, remedy: str) -> pd.Series:
    """A column of obs that the file must have."""
    column = source.column(key, rows)
    if column is None:
        names = closest_first(key, [name for name in source.obs_columns if name != key])
        raise KeyError(f"{key!r} is not in obs; it has {listed(names, 12)}. {remedy}")
    return column


def _genes(resolved: pd.DataFrame, columns: Columns) -> Json:
    """What became of the genes."""
    how = resolved["how"]
    renamed = resolved[how.isin(["genome", "ensembl", "alias", "suffix"])]
    return {
        "n_genes": int((how != "no gene").sum()),
        "n_matched": int((columns.per_gene > 0).sum()),
        "renamed": dict(zip(renamed["name"], renamed["gene"], strict=True)),
        "ambiguous": sorted(set(resolved.loc[how == "ambiguous", "name"])),
        "dates": sorted(set(resolved.loc[how == "date", "name"])),
    }
