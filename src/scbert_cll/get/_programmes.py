"""get.programmes: gene programmes that recur over donors, with their evidence."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd
from anndata import AnnData

from scbert_cll import _docs, _keys, _record
from scbert_cll._checks.words import choice

Table = Literal["programmes", "top_genes", "usage", "means", "donors", "null"]


@_docs.shared
def programmes(
    adata: AnnData,
    table: Table = "programmes",
    *,
    programme: str | None = None,
    key: str = _keys.PROGRAMMES,
) -> pd.DataFrame:
    """Programmes that recur over donors, or another table of what ``tl.programmes`` found.

    ``get.programmes(adata, "top_genes", programme="P1")`` has ``gene`` and ``weight``: so it can be
    written by :func:`~scbert_cll.io.write_gmt` and scored by
    :func:`~scbert_cll.tl.score_signature`.

    Parameters
    ----------
    %(adata_after tl.programmes)s
    table
        ``"programmes"``, ``"top_genes"``, ``"usage"`` and ``"means"`` (log2, by class),
        ``"donors"`` (programmes of each), or ``"null"`` (genes permuted).
    programme
        Only the rows of this one, e.g. ``"P1"``.
    %(key tl.programmes)s

    Returns
    -------
    A copy of ``adata.uns[key][table]``, see :func:`scbert_cll.tl.programmes` for its columns;
    without rows if no programme recurs, for the reason in ``adata.uns[key]["reason"]``.

    Raises
    ------
    KeyError
        There is no such result or programme.
    ValueError
        There is no such table, or it is not by programme.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_genes=120, n_donors=5, rng=0)
    >>> sc_cll.tl.programmes(adata, groupby="label", ranks=(3, 4))
    >>> sc_cll.get.programmes(adata, "donors")[["donor", "n_cells"]].head(2)
      donor  n_cells
    0   D01      160
    1   D02      160
    """
    choice(table, get_args(Table), "table")
    record = _record.read(adata, key, "tl.programmes", ["programmes", table])
    rows: pd.DataFrame = record[table].reset_index(drop=True)
    if programme is None:
        return rows.copy()
    if table in ("donors", "null"):
        raise ValueError(f"The table {table!r} is not by programme; leave programme out.")
    _record.named(programme, record["programmes"]["programme"], f"adata.uns[{key!r}]")
    return rows[rows["programme"] == programme].reset_index(drop=True)
