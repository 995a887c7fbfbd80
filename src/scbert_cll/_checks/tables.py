"""Checks of files and of tables in them."""

from __future__ import annotations

from collections.abc import Collection
from os import PathLike
from typing import Any

import pandas as pd
from anndata import AnnData

from scbert_cll._checks.words import listed


def same_sum(name: str, found: str, expected: str | None) -> None:
    """A file is the one that was meant."""
    if expected is not None and found != expected.strip().lower():
        raise ValueError(
            f"{name} is not the file that was expected: its SHA-256 is {found}, not "
            f"{expected}. Get the file again, or change the "
            "checksum on purpose."
        )


def table_source(source: Any, what: str) -> None:
    """A table, or where one is."""
    if not isinstance(source, pd.DataFrame | str | PathLike):
        hint = (
            " Of an AnnData, adata.to_df().T is the expression and adata.obs the clinical table."
            * isinstance(source, AnnData)
        )
        raise TypeError(
            f"{what} must be a DataFrame or the path of a table; found "
            f"{type(source).__name__}.{hint}"
        )


def known_files(named: Collection[str], files: Collection[str]) -> None:
    """Checksums are given for files that are read."""
    if isinstance(named, str) or (unknown := [name for name in named if name not in files]):
        found = repr(named) if isinstance(named, str) else listed(unknown)
        raise ValueError(
            f"sha256 must map names of files ({listed(files)}) to their checksums; found {found}."
        )


def separated(separator: str | None, name: str) -> str:
    """A table with more than one column."""
    if separator is None:
        raise ValueError(
            f"{name} has no comma, tab or semicolon in its first line; say what separates its "
            f"columns: sep="
        )
    return separator


def as_wide_as_its_header(n_header: int, n_columns: int, name: str) -> None:
    """As many fields as names, or one more, as R writes row names."""
    if n_columns not in (n_header, n_header + 1):
        raise ValueError(
            f"{name} has {n_header} names of columns, but {n_columns} fields in its first "
            f"row; write it with R's write.csv, or name the "
            "separator: sep="
        )
