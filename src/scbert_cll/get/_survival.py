"""get.survival: curves of groups of patients, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from scbert_cll import _keys, _record
from scbert_cll._checks.words import key_in
from scbert_cll.get._prognosis import tables


def survival(adata: AnnData, table: str = "curves", *, key: str = _keys.SURVIVAL) -> pd.DataFrame:
    """One of the tables that ``tl.survival`` wrote, or ``tl.prognosis`` of the groups of its score.

    Parameters
    ----------
    adata
        Patients × genes after :func:`scbert_cll.tl.survival` or :func:`scbert_cll.tl.prognosis`.
    table
        ``"curves"`` (Kaplan–Meier), ``"groups"`` (patients, events, median, hazard ratio against
        the first), ``"logrank"``, ``"flow"`` (who was left out), ``"incidence"`` (Aalen–Johansen,
        with competing events) or ``"cox"`` (with covariates).
    key
        Name under which it was written; ``"prognosis"`` for the groups of ``tl.prognosis``.

    Returns
    -------
    A copy of ``adata.uns[key][table]``. The log-rank test has one row.

    Raises
    ------
    KeyError
        There is no such result or table; what there is is listed.

    Examples
    --------
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> import scbert_cll as sc_cll
    >>> adata = AnnData(obs=pd.DataFrame(index=["patient"]))
    >>> test = {"chi2": 4.5, "df": 1, "p": 0.034}
    >>> adata.uns["survival"] = {"curves": pd.DataFrame(), "logrank": test}
    >>> sc_cll.get.survival(adata, "logrank")
       chi2  df      p
    0   4.5   1  0.034
    """
    entries = tables(patient_groups(adata, key))
    key_in(table, entries, f"adata.uns[{key!r}]")
    return entries[table].reset_index(drop=True)


def patient_groups(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Curves of groups of patients and what goes with them, whichever of the two verbs wrote it."""
    record = _record.read(adata, key, "tl.survival or tl.prognosis", bare=True)
    if "curves" not in record and "survival" in record:
        record = record["survival"]
    key_in("curves", record, f"adata.uns[{key!r}]", "Curves need times: name them with time_key=.")
    return record
