"""Checks that numbers are finite: what goes into a network, and what comes out of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed


def gene_vectors(
    values: np.ndarray, genes: pd.Index, where: str, *, is_table: bool = False
) -> np.ndarray:
    """Vectors (genes × dimensions) of finite numbers."""
    bad = genes[~np.isfinite(values).all(axis=1)]
    if len(bad):
        mended = f"np.nan_to_num({where}, posinf=0.0, neginf=0.0)"
        if is_table:
            mended = f"{where}.replace([np.inf, -np.inf], np.nan).fillna(0)"
        raise ValueError(
            f"{where} holds values that are no finite numbers for {len(bad)} genes: "
            f"{listed(bad)}. Make it anew, or put zeros there, which "
            f"a gene without a vector has: {where} = {mended}."
        )
    return values


def tensors(bad: list[str], what: str, remedy: str) -> None:
    """None that holds a NaN or an infinity; `bad` are the names of those that do."""
    if bad:
        raise ValueError(
            f"{what} holds values that are no finite numbers in {listed(bad)}. {remedy}"
        )


def results(values: np.ndarray, cells: pd.Index) -> None:
    """What a network says of each cell (cells, …), all of it finite."""
    bad = cells[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if len(bad):
        raise ValueError(
            f"The network gives no finite numbers for {len(bad)} of {len(cells)} cells, the "
            f"first of them {str(bad[0])!r}: they overflow on the "
            "way. Its weights are too large; train it anew with a smaller lr=."
        )
