"""get.prognosis: what tl.prognosis found of a signature and an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _docs, _keys, _record
from scbert_cll._checks.words import key_in
from scbert_cll.get._evaluation import only


@_docs.shared
def prognosis(
    adata: AnnData,
    table: str = "cox",
    *,
    key: str = _keys.PROGNOSIS,
    model: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """One of the tables that ``tl.prognosis`` wrote.

    Parameters
    ----------
    adata
        Samples × genes after :func:`scbert_cll.tl.prognosis`.
    table
        ``"cox"`` (hazard or odds ratios of each model), ``"models"``, ``"added_value"``,
        ``"null_tests"`` (against random sets of genes), ``"null"`` (these sets' z), ``"auc"``,
        ``"linearity"``, ``"power"``, ``"flow"`` (who was left out), ``"genes"`` or ``"survival"``
        (the curves of :func:`get.survival <scbert_cll.get.survival>`).
    %(key tl.prognosis)s
    model
        Only this model or these models, e.g. ``"clinical + score"``.

    Returns
    -------
    A copy of ``adata.uns[key][table]``, or the rows of it asked for. A few numbers
    (linearity, power) are a table of one row.

    Raises
    ------
    KeyError
        There is no such result, table or model; what there is is listed.
    ValueError
        The table is not by model.

    Examples
    --------
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> import scbert_cll as sc_cll
    >>> adata = AnnData(obs=pd.DataFrame(index=["patient"]))
    >>> adata.uns["prognosis"] = {"power": {"n_events": 40, "power": 0.71}, "params": {}}
    >>> sc_cll.get.prognosis(adata, "power")
       n_events  power
    0        40   0.71
    """
    entries = tables(_record.read(adata, key, "tl.prognosis", bare=True))
    where = f"adata.uns[{key!r}]"
    key_in(table, entries, where, f"{where}['notes'] says what was not done, and why.")
    return only(entries[table], "model", model, f"{where}[{table!r}]").reset_index(drop=True)


def tables(record: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Copies of the tables in a record, and its sets of a few numbers as tables of one row."""
    entries = {
        name: entry.copy() for name, entry in record.items() if isinstance(entry, pd.DataFrame)
    }
    for name, entry in record.items():
        if isinstance(entry, Mapping) and name != "params":
            # a file makes arrays of numbers
            row = {k: v.item() if isinstance(v, np.generic) else v for k, v in entry.items()}
            entries[name] = entry["curves"].copy() if "curves" in entry else pd.DataFrame([row])
    return entries
