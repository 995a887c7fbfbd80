"""What a corpus looks like on disk, and whether it is whole.

A corpus is a folder: ``manifest.json`` (files, checksums, cells, donors, versions, a checksum of
itself), ``vocab.txt``, ``edges.csv`` where bins were learned per gene, and for each part
(``train``, ``val``) a zarr group that annbatch opens as a `DatasetCollection`: ``dataset_0``,
``dataset_1`` … each an AnnData whose ``X`` is CSR with the genes of the vocabulary. What the
manifest lists is read, and nothing else: what lies beside it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, cast

import pandas as pd

from scbert_cll import _keys
from scbert_cll._disk import formats
from scbert_cll._disk.formats import Json
from scbert_cll._disk.in_place import settle
from scbert_cll._disk.manifests import FILES, NUMBER, Each, Format, Keys, Maybe

MANIFEST, VOCAB, EDGES = "manifest.json", "vocab.txt", "edges.csv"
PARTS: Final = (_keys.TRAIN, _keys.VAL)
SOURCE: Final = "source"  # column of obs: the file that a cell is from
# Every chunk of these carries its own checksum, checked when it is read.
_LARGE: Final = ("X/data/c/", "X/indices/c/")

_UNLISTED: Final = "not in the manifest"
_LISTED: Final = Each((int, str), FILES)
_NAME: Final = re.compile(r"dataset_\d+")
_DATASET: Final = Keys({"name": _NAME, "n_cells": int, "files": _LISTED})
_PARAMS: Final = Keys({"method": str, "n_bins": int, "target_sum": Maybe(NUMBER)})
_WRITERS: Final = ("anndata", "annbatch", "zarr", "numpy", "scipy", "pandas")
FORMAT: Final = Format(
    "scbert_cll corpus",
    "a corpus",
    version=2,
    sealed=2,
    writers=_WRITERS,
    kinds=Keys(
        {
            "format_version": int,
            "sha256": _LISTED,
            "parts": Each([_DATASET], "|".join(PARTS)),
            "binning": Maybe(Keys({"params": _PARAMS}, {"edges": [NUMBER]})),
            "donors": Each([str]),
            "obs_columns": Each(Maybe([str])),
            "sources": [Keys({"file": str})],
        }
    ),
    remedy="Restore it from a copy, or build it again.",
)


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk: what its manifest says."""

    path: Path
    record: Json

    @cached_property
    def genes(self) -> pd.Index[str]:
        """The vocabulary, in the order of the columns."""
        return pd.Index(formats.read_names(self.path / VOCAB))

    @cached_property
    def binning(self) -> Json | None:
        """Edges and parameters as pp.bin_expression records them; None where counts are raw."""
        record: Json | None = self.record["binning"]
        if record is None or EDGES not in self.record["sha256"]:
            return record
        return record | {"edges": formats.read_numbers(self.path / EDGES)}

    @property
    def obs_columns(self) -> dict[str, list[str] | None]:
        """Columns of `obs` besides donor and file: their categories, None for numbers."""
        return cast("dict[str, list[str] | None]", self.record["obs_columns"])

    @property
    def digest(self) -> str:
        """Checksum of everything a model could learn from it."""
        names = "sha256", "binning", "parts"
        return formats.digest({name: self.record[name] for name in names})

    def datasets(self, part: str) -> list[Json]:
        """Name, number of cells and files of each dataset of a part."""
        return cast("list[Json]", self.record["parts"].get(part, []))

    def n_cells(self, *parts: str) -> int:
        """Cells of some parts."""
        return sum(one["n_cells"] for part in parts for one in self.datasets(part))

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and checksum of every file but the manifest."""
        for name, (size, checksum) in self.record["sha256"].items():
            yield name, size, checksum
        for part in self.record["parts"]:
            for dataset in self.datasets(part):
                for name, (size, checksum) in dataset["files"].items():
                    yield f"{part}/{dataset['name']}/{name}", size, checksum


def listing(folder: Path, files: Iterable[Path]) -> dict[str, list[int | str]]:
    """Size and checksum of files, by their names in the folder."""
    sums = formats.checksums(folder, (file for file in files if file.is_file()))
    return {name: [(folder / name).stat().st_size, sums[name]] for name in sums}


def open_corpus(path: str | os.PathLike[str]) -> Corpus:
    """A corpus, checked as far as that is quick: every file's size, and checksums of small ones.

    Raises
    ------
    FileNotFoundError
        There is no corpus.
    ValueError
        It is something else, of a newer version, or damaged, or holds what its manifest does not
        list; the file is named.
    """
    corpus = read_manifest(path)
    refuse_damage(corpus, large=False)
    return corpus


def read_manifest(path: str | os.PathLike[str]) -> Corpus:
    """Read the manifest; no other file is looked at."""
    path = Path(path)
    settle(path)
    if not (path / MANIFEST).is_file():
        building = path.with_name(path.name + ".building")
        hint = f" Building it was cut short; the same pp.build_corpus goes on from {building}."
        raise FileNotFoundError(
            f"There is no corpus {path}: it has no {MANIFEST}.{hint if building.exists() else ''}"
        )
    record = FORMAT.read(path / MANIFEST)
    needed = [VOCAB, *(f"{part}/zarr.json" for part in record["parts"])]
    FORMAT.lists(record, needed, path / MANIFEST)
    return Corpus(path, record)


def damage(corpus: Corpus, *, large: bool = True) -> list[str]:
    """What is missing, differs from the manifest, or is not in it, by name.

    Without `large` the shards of X are only measured.
    """
    files = states(corpus, large=large)
    return [f"{name} ({problem})" for name, _, problem in files if problem]


def states(corpus: Corpus, *, large: bool = True) -> Iterator[tuple[str, int, str]]:
    """Name, expected size and problem (empty: none) of every file but the manifest.

    What the manifest does not list comes last.
    """
    for name, size, checksum in corpus.files():
        file, problem = corpus.path / name, ""
        is_read = large or not any(mark in name for mark in _LARGE)
        if not file.is_file():
            problem = "missing"
        elif file.stat().st_size != size:
            problem = f"{file.stat().st_size:,} bytes instead of {size:,}"
        elif is_read and formats.sha256(file) != checksum:
            problem = "checksum differs"
        yield name, size, problem
    for name in unlisted(corpus):
        yield name, 0, _UNLISTED


def unlisted(corpus: Corpus, *, hidden: bool = False) -> Iterator[str]:
    """Files and folders that the manifest does not list.

    Hidden ones, which systems leave and nothing reads, only where asked for.
    """
    files = {MANIFEST, *(name for name, *_ in corpus.files())}
    parents = (PurePosixPath(name).parents for name in files)
    folders = {folder.as_posix() for folders in parents for folder in folders}
    for place, inner, names in os.walk(corpus.path, followlinks=True):
        at = PurePosixPath(Path(place).relative_to(corpus.path).as_posix())
        for some, listed_ones in ((sorted(names), files), (sorted(inner), folders)):
            for name in some:
                is_shown = hidden or not name.startswith(".")
                if is_shown and (at / name).as_posix() not in listed_ones:
                    yield (at / name).as_posix()
        inner[:] = [name for name in inner if (at / name).as_posix() in folders]


def refuse_damage(corpus: Corpus, *, large: bool = True) -> None:
    """Name the damaged files, and what is not of this corpus."""
    if problems := damage(corpus, large=large):
        others = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"The corpus {corpus.path} is damaged: {'; '.join(problems[:5])}{others}. "
            f"{remedy(problems)}"
        )


def remedy(problems: Iterable[str]) -> str:
    """What to do about damage, and about what is not of the corpus."""
    is_extra = [_UNLISTED in problem for problem in problems]
    delete = f"Delete what is {_UNLISTED}: it was left there by another corpus."
    restore = "Restore these files from a copy, or build it again."
    return " ".join([delete] * any(is_extra) + [restore] * (not all(is_extra)))
