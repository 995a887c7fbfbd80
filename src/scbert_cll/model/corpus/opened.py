"""What a verb was given: cells in memory, or a corpus on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

from scbert_cll._checks.words import listed
from scbert_cll.model.corpus.data import CorpusData

OnDisk = CorpusData | str | PathLike[str]
ON_DISK: Final = (CorpusData, str, PathLike)
_OF_CELLS: Final = (".h5ad", ".h5mu", ".h5")


def opened(
    corpus: OnDisk,
    *,
    balance: Sequence[str] = (),
    num_workers: int = 0,
    binning: Mapping[str, Any] | None = None,
) -> CorpusData:
    """The corpus; `binning` is for one of raw counts."""
    if isinstance(corpus, CorpusData):
        given = {"balance": bool(balance), "num_workers": bool(num_workers)}
        if names := [name for name, is_given in given.items() if is_given]:
            raise ValueError(
                f"{listed(names)} belong in CorpusData(…), which was opened already; leave them "
                f"out here."
            )
        return corpus
    if not isinstance(corpus, (str, PathLike)):
        raise TypeError(
            f"Expected a corpus, its path or a CorpusData; found {type(corpus).__name__}."
        )
    if Path(corpus).suffix in _OF_CELLS:
        raise ValueError(
            f"{corpus} is a file of cells; read it (ad.read_h5ad), or build a corpus of it and "
            f"others (pp.build_corpus)."
        )
    return CorpusData(corpus, balance=balance, num_workers=num_workers, binning=binning)


def not_of_a_corpus(given: Mapping[str, bool]) -> None:
    """Nothing is asked for that only cells in memory have."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} belong to cells in memory; a corpus was binned and split by donor "
            f"when it was built. Leave them out."
        )


def only_of_a_corpus(given: Mapping[str, bool], *, remedy: str) -> None:
    """Nothing is asked for that only a corpus has."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} are for a corpus on disk, and the cells are in memory. {remedy}"
        )
