"""What a verb was given: cells in memory, or a corpus on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

from scbert_cll._checks.words import refuse_given
from scbert_cll.model.corpus.data import CorpusData

OnDisk = CorpusData | str | PathLike[str]
ON_DISK: Final = (CorpusData, str, PathLike)
# why arguments are refused that are not for the one, or not for the other
NOT_OF_A_CORPUS: Final = (
    "belong to cells in memory; a corpus was binned and split by donor when it was built. Leave "
    "them out."
)
ONLY_OF_A_CORPUS: Final = "are for a corpus on disk, and the cells are in memory."
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
        why = "belong in CorpusData(…), which is open already; leave them out here."
        refuse_given(given, why)
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
