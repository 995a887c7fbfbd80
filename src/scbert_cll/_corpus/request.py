"""What a corpus is to be built of, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll._checks.paths import plain_or_folder
from scbert_cll._checks.words import listed
from scbert_cll._corpus.columns import Columns
from scbert_cll._corpus.sources import Source
from scbert_cll._disk.formats import digest
from scbert_cll._settings import settings
from scbert_cll.vocab import GeneVocab

# Bytes a stored value takes while a block is read, placed and binned (measured), and how many
# values a block has.
_BYTES_PER_VALUE: Final = 128
_FEWEST_VALUES, _MOST_VALUES = 2**12, 2**21
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?) *([KMGT]?)I?B?", re.IGNORECASE)
_STEP: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Request:
    """What pp.build_corpus was called with, checked."""

    vocab: GeneVocab
    binning: Mapping[str, Any] | None  # as pp.bin_expression records it; None: counts stay counts
    cut: Callable[[sparse.csr_matrix], sparse.csr_matrix]  # counts to what is stored
    n_bins: int
    layer: str | None
    modality: str | None
    cells: str | None
    aliases: Mapping[str, frozenset[str]] | None
    min_matched: float
    min_genes: int
    donor_key: str | None
    obs_columns: list[str]
    val_fraction: float
    val_donors: Any
    on_error: str
    memory: int
    rng: int

    @property
    def is_binned(self) -> bool:
        """Whether tokens are stored, and not counts."""
        return self.binning is not None

    @property
    def dtype(self) -> type[np.generic]:
        """Of what is stored."""
        return np.uint8 if self.is_binned else np.int32

    @property
    def n_values(self) -> int:
        """Stored values of a block."""
        return int(np.clip(self.memory // 8 // _BYTES_PER_VALUE, _FEWEST_VALUES, _MOST_VALUES))

    def reading(self) -> dict[str, Any]:
        """Parameters that decide what a scan of a file finds; what is long by its checksum."""
        edges = None if self.binning is None else self.binning["edges"]
        cuts = None if self.binning is None else {**self.binning, "edges": _as_text(edges)}
        names = self.aliases
        aliases = None if names is None else {name: sorted(names[name]) for name in names}
        return {
            "binned": self.is_binned,
            "min_matched": self.min_matched,
            "min_genes": self.min_genes,
            "modality": self.modality,
            "cells": self.cells,
            "layer": self.layer or "X",
            "donor_key": self.donor_key,
            "obs_columns": self.obs_columns,
            "not_donors": sorted(settings.not_donors),
            "vocab": digest(list(self.vocab.names)),
            "binning": None if cuts is None else digest(cuts),
            "aliases": None if aliases is None else digest(aliases),
        }

    def record(self) -> dict[str, Any]:
        """All parameters, as the manifest has them."""
        return {
            **self.reading(),
            "val_fraction": self.val_fraction,
            "val_donors": self.val_donors,
            "on_error": self.on_error,
            "rng": self.rng,
            "memory": self.memory,
        }

    def open(self, path: Path) -> Source:
        """A file, open for reading."""
        return Source(path, layer=self.layer, memory=self.memory, modality=self.modality)

    def aligned(self, source: Source, columns: Columns, start: int, stop: int) -> sparse.csr_matrix:
        """Counts of some cells for the vocabulary, without stored zeros; genes in any order."""
        counts = columns.placed(source.counts(start, stop))
        counts.eliminate_zeros()
        return counts


def _as_text(edges: Any) -> Any:
    return edges.to_csv() if isinstance(edges, pd.DataFrame) else edges


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
        raise ValueError("paths names no file; expected .h5ad, .h5mu, .zarr or 10x .h5 files.")
    if absent := [str(file) for file in files if not file.exists()]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(files)} files are not there: {listed(absent)}."
        )
    resolved = [plain_or_folder(file).resolve() for file in files]
    places = zip(files, resolved, strict=True)
    if twice := sorted({str(f) for f, at in places if resolved.count(at) > 1}):
        raise ValueError(f"paths names a file more than once: {listed(twice)}. Name each once.")
    return files


def labels(paths: Iterable[Path]) -> list[str]:
    """A name for each file: its last parts, as many as tell all files apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
