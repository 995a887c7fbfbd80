"""What a corpus looks like on disk, and whether it is whole.

A corpus is a folder: ``manifest.json`` (files, checksums, cells, donors, versions), ``vocab.txt``, ``edges.csv`` where bins were learned per
gene, and for each part (``train``, ``val``) a zarr group that annbatch opens as a `DatasetCollection`: ``dataset_0``, ``dataset_1`` … each an
AnnData whose ``X`` is CSR with the genes of the vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd

from scbert_cll import _keys
from scbert_cll._files import digest, read_json, read_names, read_numbers, sha256

FORMAT: Final = "scbert_cll corpus"
FORMAT_VERSION: Final = 1
MANIFEST, VOCAB, EDGES = "manifest.json", "vocab.txt", "edges.csv"
PARTS: Final = (_keys.TRAIN, _keys.VAL)
_LARGE: Final = ("X/data/c/", "X/indices/c/")  # every chunk of these carries its own checksum, checked when it is read


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk: what its manifest says."""

    path: Path
    record: dict[str, Any]

    @cached_property
    def genes(self) -> pd.Index:
        """The vocabulary, in the order of the columns."""
        return pd.Index(read_names(self.path / VOCAB))

    @cached_property
    def binning(self) -> dict[str, Any] | None:
        """Edges and parameters as :func:`~scbert_cll.pp.bin_expression` records them; None where the counts are raw."""
        record: dict[str, Any] | None = self.record["binning"]
        if record is None or not (self.path / EDGES).exists():
            return record
        return record | {"edges": read_numbers(self.path / EDGES)}

    @property
    def digest(self) -> str:
        """Checksum of everything a model could learn from it."""
        return digest({name: self.record[name] for name in ("sha256", "binning", "parts")})

    def datasets(self, part: str) -> list[dict[str, Any]]:
        """Name, number of cells and files of each dataset of a part."""
        found: list[dict[str, Any]] = self.record["parts"].get(part, [])
        return found

    def n_cells(self, part: str) -> int:
        """Cells of a part."""
        return sum(dataset["n_cells"] for dataset in self.datasets(part))


def open_corpus(path: str | os.PathLike[str]) -> Corpus:
    """Read the manifest and check all that is quick to check: every file's size, and the checksums of the small ones.

    Raises
    ------
    FileNotFoundError
        There is no corpus.
    ValueError
        It is something else, of a newer version, or damaged; the file is named.
    """
    corpus = read_manifest(path)
    refuse_damage(corpus, damage(corpus, large=False))
    return corpus


def read_manifest(path: str | os.PathLike[str]) -> Corpus:
    """Read the manifest; no other file is looked at."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        building = path.with_name(path.name + ".building")
        hint = (
            f" Building it was cut short; the same pp.build_corpus goes on from {building}."
            if building.exists()
            else ""
        )
        raise FileNotFoundError(f"There is no corpus {path}: it has no {MANIFEST}.{hint}")
    record = read_json(path / MANIFEST)
    if record.get("format") != FORMAT:
        raise ValueError(f"{path} is not a corpus of scbert_cll: its {MANIFEST} does not say format = {FORMAT!r}.")
    if record["format_version"] > FORMAT_VERSION:
        raise ValueError(f"{path} was built by a newer scbert_cll; upgrade scbert_cll to read it.")
    return Corpus(path, record)


def damage(corpus: Corpus, *, large: bool = True) -> list[str]:
    """Files that are missing or differ from the manifest, by name; without `large` the shards of X are only measured."""
    return [f"{name} ({problem})" for name, _, problem in states(corpus, large=large) if problem]


def states(corpus: Corpus, *, large: bool = True) -> Iterator[tuple[str, int, str]]:
    """Name, expected size and what is wrong (nothing: empty) of every file but the manifest."""
    for name, size, checksum in _files(corpus.record):
        file, problem = corpus.path / name, ""
        if not file.is_file():
            problem = "missing"
        elif file.stat().st_size != size:
            problem = f"{file.stat().st_size:,} bytes instead of {size:,}"
        elif (large or not any(mark in name for mark in _LARGE)) and sha256(file) != checksum:
            problem = "checksum differs"
        yield name, size, problem


def refuse_damage(corpus: Corpus, found: list[str]) -> None:
    """Name the damaged files."""
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(
            f"The corpus {corpus.path} is damaged: {'; '.join(found[:5])}{more}. Restore these files from a copy, or build it again."
        )


def _files(record: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Name, size and checksum of every file but the manifest."""
    for name, (size, checksum) in record["sha256"].items():
        yield name, size, checksum
    for part, datasets in record["parts"].items():
        for dataset in datasets:
            for name, (size, checksum) in dataset["files"].items():
                yield f"{part}/{dataset['name']}/{name}", size, checksum
