"""Checks of series matrices of GEO: what came over the network, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import pandas as pd

from scbert_cll._checks.text import odd_quotes
from scbert_cll._checks.words import listed

_ACCESSION: Final = re.compile(r"GSE\d+(-GPL\d+)?")


def accession(name: str) -> str:
    """Name of a series in GEO, with its platform where it has several."""
    if not isinstance(name, str) or not _ACCESSION.fullmatch(name):
        raise ValueError(
            f"Expected the accession of a series in GEO, e.g. 'GSE39671' or "
            f"'GSE22762-GPL570'; found {name!r}."
        )
    return name


def packed_series(is_packed: bool, start: bytes, address: str) -> None:
    """What GEO sent is packed, as its series matrices are.

    A proxy may answer with a page of its own.
    """
    if not is_packed:
        came = f"it begins with {start[:20]!r}" if start else "it is empty"
        raise ValueError(
            f"What {address} answered is no series matrix packed by gzip: {came}. A proxy or "
            f"a page to log in may have answered; look at the address in a browser."
        )


def series_matrix(is_one: bool, is_complete: bool, name: str) -> None:
    """A series matrix of GEO, with its end."""
    if not is_one:
        raise ValueError(
            f"{name} is not a series matrix of GEO: it has no line !Sample_geo_accession. Get "
            f"GSE..._series_matrix.txt.gz."
        )
    if not is_complete:
        raise ValueError(
            f"{name} ends before its table does (no line !series_matrix_table_end), so it is "
            f"not complete; get it again."
        )


def one_value_per_sample(
    about: Mapping[str, list[list[str]]],
    of_samples: str,
    accessions: str,
    odd: int | None,
    name: str,
) -> None:
    """A quote that was not closed has not made one value of two samples' values: those behind it would be other samples'."""
    if odd is None or not about[accessions]:
        return
    n = len(about[accessions][0])
    for key, lines in about.items():
        if key.startswith(of_samples) and (
            other := next((len(cells) for cells in lines if len(cells) != n), None)
        ):
            raise ValueError(
                f"{name} has {n} samples and {other} values in a line {key}, and a quote in "
                f"line {odd} is not closed. Get the file again, or close it."
            )


def no_open_quote(body: str, name: str) -> None:
    """Every quote of a series' table is closed in its line: rows that an open one goes over would be lost."""
    if (line := odd_quotes(body)) is not None:
        raise ValueError(
            f"{name} has a quote that is not closed in row {line} of its table, so the rows "
            f"behind it would be lost. Get the file again, or close it."
        )


def same_samples(in_table: pd.Index, described: pd.Index, name: str) -> None:
    """The samples of the table are the ones that are described."""
    if set(in_table) != set(described):
        other = sorted(set(in_table) ^ set(described))
        raise ValueError(
            f"{name}: the table and the !Sample_ lines name different samples: "
            f"{listed(other)}. Get the file again."
        )
