"""get.prognosis and get.survival: what became of patients, by score and by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from scbert_cll import _docs, _keys, _record
from scbert_cll._checks.words import key_in
from scbert_cll.get._predicted import only


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
    entries = _tables(_record.read(adata, key, "tl.prognosis", bare=True))
    where = f"adata.uns[{key!r}]"
    key_in(table, entries, where, f"{where}['notes'] says what was not done, and why.")
    rows = only(entries[table], "model", model, f"{where}[{table!r}]")
    return rows.reset_index(drop=True)


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
    entries = _tables(patient_groups(adata, key))
    key_in(table, entries, f"adata.uns[{key!r}]")
    return entries[table].reset_index(drop=True)


def patient_groups(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Curves of groups of patients and what goes with them, whichever of the two verbs wrote it."""
    record = _record.read(adata, key, "tl.survival or tl.prognosis", bare=True)
    if "curves" not in record and "survival" in record:
        record = record["survival"]
    remedy = "Curves need times: name them with time_key=."
    key_in("curves", record, f"adata.uns[{key!r}]", remedy)
    return record


def _tables(record: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Copies of the tables in a record, and its sets of a few numbers as tables of one row."""
    entries = {k: v.copy() for k, v in record.items() if isinstance(v, pd.DataFrame)}
    for name, entry in record.items():
        if isinstance(entry, Mapping) and name != "params":
            one_row = pd.DataFrame([entry])
            entries[name] = entry.get("curves", one_row).copy()
    return entries
