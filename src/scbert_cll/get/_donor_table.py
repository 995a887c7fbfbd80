"""get.donor_table: what was found in each donor."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import key_in


def donor_table(adata: AnnData, *, key: str = _keys.CD49D) -> pd.DataFrame:
    """What ``pp.label_cd49d`` found in each donor.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.pp.label_cd49d` with a ``donor_key``.
    key
        Name under which it wrote.

    Returns
    -------
    A copy of ``adata.uns[key]["donors"]``: one row per donor, with the number of gated cells, the
    percentage of positive ones, whether the donor is bimodal and its clinical class; the largest
    percentage first.

    Raises
    ------
    KeyError
        There is no such result, or it was made without donors.
    """
    _checks.adata.anndata(adata)
    key_in(key, adata.uns, "adata.uns", "Run pp.label_cd49d first.")
    where = f"adata.uns[{key!r}]"
    key_in(
        "donors", adata.uns[key], where, "Run pp.label_cd49d with donor_key= to get a donor table."
    )
    table: pd.DataFrame = adata.uns[key]["donors"]
    return table.sort_values("pct_positive", ascending=False, kind="stable")
