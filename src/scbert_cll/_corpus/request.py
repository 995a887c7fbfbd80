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
from scbert_cll._disk.formats import Json, digest
from scbert_cll._settings import settings
from scbert_cll.vocab import GeneVocab

# Bytes a stored value takes while a block is read, placed and binned (measured), and how many
# values a block has.
_BYTES_PER_VALUE: Final = 128
_FEWEST_VALUES, _MOST_VALUES = 2**12, 2**21
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?) *([KMGT]?)I?B?", re.IGNORECASE)
# parameters of a scan, by their names here, and those of what comes after
_READING: Final = (
    *("min_matched", "min_genes", "modality", "cells"),
    *("layer", "donor_key", "obs_columns"),
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
    min_matched: float
    min_genes: int
    donor_key: str | None
    obs_columns: list[str]
    val_fraction: float
    val_donors: object
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
            "binned": self.is_binned,
            **{name: getattr(self, name) for name in _READING},
            "layer": self.layer or "X",  # in its place among these
            "not_donors": sorted(settings.not_donors),
            "vocab": digest(list(self.vocab.names)),
            "binning": cuts,
            "aliases": aliases,
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
    resolved = [plain_or_folder(file).resolve() for file in files]
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
