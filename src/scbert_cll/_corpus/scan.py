"""The first of two passes: what every file holds, and whether it can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import key_in, unique
from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.columns import Columns
from scbert_cll._corpus.sources import Source
from scbert_cll._disk.formats import size_and_time
from scbert_cll._disk.left_overs import read_kept, write_kept
from scbert_cll.vocab import GeneVocab

# Bytes a stored value takes while a block is read, placed and binned (measured), and how many
# values a block has.
_BYTES_PER_VALUE: Final = 128
_FEWEST_VALUES, _MOST_VALUES = 2**12, 2**21


@dataclass(frozen=True)
class Request:
    """What is wanted of every file."""

    vocab: GeneVocab
    cut: Callable[
        [sparse.csr_matrix], sparse.csr_matrix
    ]  # counts to what is stored: tokens, or counts
    n_bins: int
    layer: str | None
    aliases: Any
    min_matched: float
    min_genes: int
    donor_key: str | None
    obs_columns: Sequence[str]
    memory: int
    modality: str | None = None
    cells: str | None = None

    @property
    def n_values(self) -> int:
        """Stored values of a block."""
        return int(np.clip(self.memory // 8 // _BYTES_PER_VALUE, _FEWEST_VALUES, _MOST_VALUES))

    def open(self, path: Path) -> Source:
        """A file, open for reading."""
        return Source(path, layer=self.layer, memory=self.memory, modality=self.modality)

    def aligned(self, source: Source, columns: Columns, start: int, stop: int) -> sparse.csr_matrix:
        """Counts of some cells for the genes of the vocabulary, without stored zeros.

        Genes of a cell in any order.
        """
        counts = columns.placed(source.counts(start, stop))
        counts.eliminate_zeros()
        return counts


@dataclass(frozen=True)
class Scan:
    """What a file holds."""

    record: dict[str, Any]
    n_tokens: np.ndarray  # (cells,) stored values of each; 0: left out
    donor: np.ndarray  # (cells,) number in record["donors"]
    index: np.ndarray  # (columns,) place in the vocabulary

    @classmethod
    def refused(cls, head: dict[str, Any], reason: str) -> Scan:
        """Of a file that cannot be used."""
        nothing = np.zeros(0, np.int32)
        return cls(head | {"reason": reason}, nothing, nothing, nothing)

    @property
    def reason(self) -> str | None:
        """Why the file cannot be used, if it cannot."""
        return self.record.get("reason")

    def save(self, path: Path, call: str) -> None:
        """Write all of it as one file, which says what was asked of which file."""
        arrays = {"n_tokens": self.n_tokens, "donor": self.donor, "index": self.index}
        write_kept(path, arrays, self.record, call)

    @classmethod
    def load(cls, path: Path, call: str) -> Scan | None:
        """Read what `save` wrote; None where it is damaged, or of another call."""
        found = read_kept(path, call)
        return None if found is None else cls(found[0], **found[1])


class _Tally:
    """What is learned block by block."""

    def __init__(self, n_cells: int) -> None:
        self.n_tokens, self.donor = np.zeros(n_cells, np.int32), np.zeros(n_cells, np.int32)
        self.names = np.zeros(n_cells, np.uint64)
        self.donors: dict[str, int] = {}
        self.kinds: dict[str, str] = {}
        self.categories: dict[str, set[str]] = {}
        self.order: dict[str, list[str]] = {}
        self.not_donors: dict[str, int] = {}
        self.largest, self.n_at_top = 0.0, 0

    def add_column(self, key: str, column: pd.Series) -> None:
        """Kind and categories of a column of obs; a column without values has neither."""
        self.kinds.setdefault(key, "empty")
        present = column.dropna()
        if len(present):
            is_number = pd.api.types.is_numeric_dtype(present) and not pd.api.types.is_bool_dtype(
                present
            )
            self.kinds[key] = "number" if is_number else "text"
        if self.kinds.get(key) == "text":
            self.categories.setdefault(key, set()).update(
                _checks.people.class_names(present).unique()
            )
            if isinstance(column.dtype, pd.CategoricalDtype):
                self.order.setdefault(key, _checks.people.class_order(column, unused=True))

    def in_order(self, key: str) -> list[str]:
        """Categories of a column, as they are ordered in the file."""
        found = self.categories.get(key, set())
        return self.order.get(key) or _checks.people.sorted_names(found)

    def leave_out_no_donors(self, where: str) -> None:
        """Cells of no donor are not kept."""
        people, words = _checks.people.people_of(self.donors)
        if not people:
            _checks.people.no_donor(words, where)
        for name in words:
            own = (self.donor == self.donors[name]) & (self.n_tokens > 0)
            if own.any():
                self.not_donors[name] = int(own.sum())
            self.n_tokens[own] = 0


def scan(path: Path, head: dict[str, Any], request: Request) -> Scan:
    """Read all of a file once and say what it holds.

    Raises
    ------
    ValueError
        It cannot be used; the sentence says why.
    """
    with request.open(path) as source:
        corpus_checks.not_a_layer_of_tokens(is_binned=source.is_binned())
        found = source.resolve(request.vocab, request.aliases)
        columns = Columns(found["index"].to_numpy(), len(request.vocab))
        missing = request.vocab.names[columns.per_gene == 0]
        _checks.genes.vocabulary_coverage(
            found, missing, len(request.vocab), min_matched=request.min_matched
        )
        tally = _tallied(source, columns, head["file"], request)
        if request.donor_key is not None and not source.is_10x:
            tally.leave_out_no_donors(f"obs[{request.donor_key!r}]")
        _unique_names(source, tally.names)
        of_counts = {"no_genes": source.others, "n_rounded": source.n_rounded}
    corpus_checks.not_tokens(
        tally.largest, tally.n_at_top, source.n_cells, len(request.vocab), request.n_bins
    )
    record = {
        **head,
        "size": size_and_time(path)[0],
        **_genes(found, columns),
        **_cells(tally),
        **of_counts,
    }
    return Scan(record, tally.n_tokens, tally.donor, found["index"].to_numpy(np.int32))


def stem(label: str) -> str:
    """A file's name without its ending."""
    return label[: -len(suffix)] if (suffix := Path(label).suffix) else label


def chosen(source: Source, key: str | None, start: int, stop: int) -> np.ndarray:
    """Which cells a column of obs chooses; all where none is named."""
    if key is None:
        return np.ones(stop - start, dtype=bool)
    return corpus_checks.chosen_cells(source.column(key, start, stop), key, source.obs_columns)


def donor_names(
    source: Source,
    label: str,
    key: str | None,
    start: int,
    stop: int,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Donor of each cell; a file's name where it says nothing of donors or nothing is asked.

    `own` are the cells that matter.
    """
    if key is None or source.is_10x:
        return np.full(stop - start, stem(label), dtype=object)
    column = source.column(key, start, stop)
    if column is None:
        remedy = "Name the column of donors (donor_key); None takes every file for one donor."
        key_in(key, [name for name in source.obs_columns if name != key], "obs", remedy)
        return np.zeros(0, dtype=object)
    missing = column.isna().to_numpy() & (True if own is None else own)
    if missing.any():
        corpus_checks.of_a_donor(source.names(start, stop)[missing], key)
    return _checks.people.named(column, _checks.people.donor_name).to_numpy(dtype=object)


def _tallied(source: Source, columns: Columns, label: str, request: Request) -> _Tally:
    """Go through the file."""
    tally = _Tally(source.n_cells)
    for start, stop in source.blocks(0, source.n_cells, request.n_values):
        rows = slice(start, stop)
        counts = request.aligned(source, columns, start, stop)
        tokens = np.diff(request.cut(counts).indptr)
        own = chosen(source, request.cells, start, stop)
        tally.n_tokens[rows] = np.where(
            own & (np.diff(counts.indptr) >= request.min_genes), tokens, 0
        )
        tally.largest = max(tally.largest, counts.data.max(initial=0))
        tally.n_at_top += (
            _n_rows_with(counts, request.n_bins) if tally.largest <= request.n_bins else 0
        )
        names, codes = np.unique(
            donor_names(source, label, request.donor_key, start, stop, own).astype(str),
            return_inverse=True,
        )
        known = [tally.donors.setdefault(str(name), len(tally.donors)) for name in names]
        tally.donor[rows] = np.asarray(known, dtype=np.int32)[codes]
        tally.names[rows] = pd.util.hash_array(source.names(start, stop))
        for key in request.obs_columns:
            if (column := source.column(key, start, stop)) is not None:
                tally.add_column(key, column)
    return tally


def _n_rows_with(counts: sparse.csr_matrix, value: float) -> int:
    """Cells in which a value occurs."""
    at = np.searchsorted(counts.indptr, np.flatnonzero(counts.data == value), side="right")
    return len(np.unique(at))


def _unique_names(source: Source, hashed: np.ndarray) -> None:
    """No name of a cell twice; names are only read again where their hashes say so."""
    if len(np.unique(hashed)) < len(hashed):
        unique(
            pd.Index(source.names(0, source.n_cells)), "obs_names", "adata.obs_names_make_unique()"
        )


def _genes(found: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """What became of the genes."""
    how = found["how"]
    renamed = found[how.isin(["genome", "ensembl", "alias", "suffix"])]
    return {
        "n_genes": int((how != "no gene").sum()),
        "n_matched": int((columns.per_gene > 0).sum()),
        "renamed": dict(zip(renamed["name"], renamed["gene"], strict=True)),
        "ambiguous": sorted(set(found.loc[how == "ambiguous", "name"])),
    }


def _cells(tally: _Tally) -> dict[str, Any]:
    """What became of the cells."""
    kept = tally.n_tokens > 0
    per_donor = Counter(tally.donor[kept].tolist())
    return {
        "n_cells": len(kept),
        "n_kept": int(kept.sum()),
        "n_tokens": int(tally.n_tokens.sum(dtype=np.int64)),
        "donors": {name: per_donor[code] for name, code in tally.donors.items()},
        "not_donors": tally.not_donors,
        "columns": {
            key: None
            if kind == "number"
            else _checks.people.sorted_names(tally.categories.get(key, ()))
            for key, kind in tally.kinds.items()
        },
        "order": {key: tally.in_order(key) for key in tally.kinds},
    }


def labels(paths: Iterable[Path]) -> list[str]:
    """A name for each file: its last parts, as many as tell all files apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return names
