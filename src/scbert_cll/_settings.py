"""What holds for every verb, and is set once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# What demultiplexing writes where it found no single donor (vireo, souporcell, demuxlet and
# freemuxlet, HTODemux, MULTIseqDemux, hashsolo, GMM-Demux, demuxEM, scSplit, cellhashR, Cell Ranger
# multi, BD Rhapsody), and what tables hold where there is nothing.
_WORDS: Final = (
    "doublet, doublets, multiplet, multiplets, multiple, dbl, singlet, singlets, sng, unassigned, "
    "unassignable, not assigned, negative, ambiguous, amb, unknown, unclear, uncertain, "
    "undetermined, discordant, not called, no call, nocall, low counts, blank, empty, undetected, "
    "unmapped, ?, nan, na, n/a, #n/a, none, null, <na>"
)
_NOT_DONORS: Final = ("", *_WORDS.split(", "))


class Settings:
    """Settings of this session, as ``scbert_cll.settings``.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> "doublet" in sc_cll.settings.not_donors
    True
    """

    def __init__(self) -> None:
        self._not_donors: tuple[str, ...] = _NOT_DONORS

    @property
    def not_donors(self) -> tuple[str, ...]:
        """Words that are no donors, in any capitals.

        Cells that have one in a column of donors are left out, with a count. An empty list leaves
        out nothing.
        """
        return self._not_donors

    @not_donors.setter
    def not_donors(self, words: Iterable[str]) -> None:
        words = [words] if isinstance(words, str) else list(words)
        if other := [word for word in words if not isinstance(word, str)]:
            kind = type(other[0]).__name__
            raise TypeError(
                f"not_donors must be a list of words; found {other[0]!r} of type {kind}."
            )
        self._not_donors = tuple(dict.fromkeys(words))

    def reset(self) -> None:
        """Back to how it was at the start."""
        self._not_donors = _NOT_DONORS

    def __repr__(self) -> str:
        return f"Settings(not_donors={list(self._not_donors)})"


settings: Final = Settings()
