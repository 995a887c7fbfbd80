"""get.donor_table: what was found in each donor."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from scbert_cll import _keys, _record


def donor_table(adata: AnnData, *, key: str = _keys.CD49D) -> pd.DataFrame:
    """Cells, percentage of positive ones and class of each donor, as ``pp.label_cd49d`` wrote them.

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
    remedy = "Run pp.label_cd49d with donor_key= to get a donor table."
    record = _record.read(adata, key, "pp.label_cd49d", ["donors"], missing=remedy)
    table: pd.DataFrame = record["donors"]
    return table.sort_values("pct_positive", ascending=False, kind="stable")
