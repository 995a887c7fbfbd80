"""Checks of verbs that take cells in memory or a corpus on disk."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from scbert_cll._checks._words import listed


def corpus_path(value: Any) -> Path:
    """Where a corpus is."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(f"Expected a corpus, its path or a CorpusData; found {type(value).__name__}.")
    if Path(value).suffix in (".h5ad", ".h5mu", ".h5"):
        raise ValueError(
            f"{value} is a file of cells; read it (ad.read_h5ad), or build a corpus of it and others (pp.build_corpus)."
        )
    return Path(value)


def not_of_a_corpus(given: Mapping[str, bool]) -> None:
    """Nothing is asked for that only cells in memory have."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} belong to cells in memory; a corpus was binned and split by donor when it was built. Leave them out."
        )


def only_of_a_corpus(given: Mapping[str, bool], *, remedy: str) -> None:
    """Nothing is asked for that only a corpus has."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{listed(names)} are for a corpus on disk, and the cells are in memory. {remedy}")


def not_chosen_twice(given: Mapping[str, bool]) -> None:
    """How a corpus is read was said when it was opened."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{listed(names)} belong into CorpusData(…), which was opened already; leave them out here.")
