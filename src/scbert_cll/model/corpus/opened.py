"""What a verb was given: cells in memory, or a corpus on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Final

from scbert_cll.model.corpus import checks as reading_checks
from scbert_cll.model.corpus.data import CorpusData

OnDisk = CorpusData | str | PathLike[str]
ON_DISK: Final = (CorpusData, str, PathLike)


def opened(
    corpus: OnDisk,
    *,
    balance: Sequence[str] = (),
    num_workers: int = 0,
    binning: Mapping[str, Any] | None = None,
) -> CorpusData:
    """The corpus; `binning` is for one of raw counts."""
    if isinstance(corpus, CorpusData):
        reading_checks.not_chosen_twice({"balance": bool(balance), "num_workers": num_workers != 0})
        return corpus
    return CorpusData(
        reading_checks.corpus_path(corpus),
        balance=balance,
        num_workers=num_workers,
        binning=binning,
    )
