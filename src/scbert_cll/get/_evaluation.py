"""get.evaluation and get.out_of_fold: what tl.cross_validate wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names
from scbert_cll._checks.words import key_in, listed
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER


@_docs.shared
def evaluation(
    adata: AnnData,
    *,
    table: str = "summary",
    key: str = _keys.CV,
    metric: str | Iterable[str] | None = None,
    model: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """One of the tables that ``tl.cross_validate`` wrote.

    Parameters
    ----------
    %(adata_after tl.cross_validate)s
    table
        ``"summary"`` (models × metrics with 95 % intervals), ``"scores"`` (of each repeat),
        ``"differences"`` (to the best baseline), ``"per_class"``, ``"donors"``, ``"agreement"`` (of
        the donors' 30 % call), ``"reliability"``, ``"folds"`` or ``"seconds"``.
    %(key tl.cross_validate)s
    metric
        Only this metric or these metrics.
    model
        Only this model or these models.

    Returns
    -------
    A copy of ``adata.uns[key][table]``, or the rows of it asked for. The summary has the best model
    of each metric first, and those for which it is undefined last.

    Raises
    ------
    KeyError
        There is no such result, table, metric or model; what there is is listed.
    ValueError
        The table is not by metric or not by model.
    """
    held = _evaluated(adata, key)
    where = f"adata.uns[{key!r}]"
    tables = {name: value for name, value in held.items() if isinstance(value, pd.DataFrame)}
    key_in(table, tables, where)
    found = tables[table].copy()
    for column, asked in (("metric", metric), ("model", model)):
        found = only(found, column, asked, f"{where}[{table!r}]")
    return (_best_first(found) if table == "summary" else found).reset_index(drop=True)


@_docs.shared
def out_of_fold(
    adata: AnnData,
    *,
    model: str | Iterable[str] | None = None,
    repeat: int | None = None,
    key: str = _keys.CV,
) -> pd.DataFrame:
    """Prediction of each labelled cell by models that have not seen it.

    What ``tl.cross_validate`` wrote, one row per model, repeat and cell: with several models or
    repeats a cell has several rows.

    Parameters
    ----------
    %(adata_after tl.cross_validate)s
    model
        Only this model or these models.
    repeat
        Only this repeat, from 0.
    %(key tl.cross_validate)s

    Returns
    -------
    DataFrame by cell, with ``donor`` where donors are known, ``label``, ``model``, ``repeat``,
    ``pred`` (the most probable class of this repeat) and one ``proba_<class>`` per class. Cells
    without a label are not in it.

    Raises
    ------
    KeyError
        There is no such result, model or repeat; what there is is listed.
    """
    held = _evaluated(adata, key)
    key_in(f"{key}_proba", adata.obsm, "adata.obsm", "Run tl.cross_validate first.")
    proba = cast("pd.DataFrame", adata.obsm[f"{key}_proba"])
    of = [_names.parts(str(column), adata.uns)[:2] for column in proba.columns]
    runs = list(dict.fromkeys(of))
    models, repeats = (
        dict.fromkeys(name for name, _ in runs),
        dict.fromkeys(int(number) for _, number in runs),
    )
    where = f"adata.obsm['{key}_proba']"
    asked = list(models) if model is None else [model] if isinstance(model, str) else list(model)
    for name in asked:
        key_in(name, models, f"the models of {where}")
    if repeat is not None and repeat not in repeats:
        raise KeyError(f"Repeat {repeat} is not in {where}; it has {listed(repeats, 12)}.")
    classes = pd.CategoricalDtype(
        [str(name) for name in held["classes"]], ordered=bool(held.get("ordered", False))
    )
    cells = _tested(adata, held["params"], classes)
    wanted = [
        (name, n)
        for name in asked
        for n in repeats
        if (name, str(n)) in runs and repeat in (None, n)
    ]
    return pd.concat(
        [
            _run(proba.loc[:, [run == (name, str(n)) for run in of]], cells, name, n, classes)
            for name, n in wanted
        ]
    )


def _evaluated(adata: AnnData, key: str) -> Mapping[str, Any]:
    """What `tl.cross_validate` wrote into `uns`."""
    _checks.adata.anndata(adata)
    key_in(key, adata.uns, "adata.uns", "Run tl.cross_validate first.")
    return cast("Mapping[str, Any]", adata.uns[key])


def only(
    table: pd.DataFrame, column: str, asked: str | Iterable[str] | None, where: str
) -> pd.DataFrame:
    """The rows asked for."""
    if asked is None:
        return table
    if column not in table:
        raise ValueError(
            f"{where} is not by {column}; leave {column}= out. Its columns are "
            f"{listed(table.columns, 20)}."
        )
    names = [asked] if isinstance(asked, str) else list(asked)
    there = dict.fromkeys(table[column].astype(str))
    for name in names:
        key_in(name, there, f"the column {column!r} of {where}")
    return table[table[column].isin(names)]


def _best_first(summary: pd.DataFrame) -> pd.DataFrame:
    """Metrics in their order, models of each from best to worst; undefined last."""
    order = {name: i for i, name in enumerate(dict.fromkeys(summary["metric"]))}
    lower = summary["metric"].isin(list(LOWER_IS_BETTER))
    rank = summary["estimate"].where(lower, -summary["estimate"])
    keys = pd.DataFrame(
        {"metric": summary["metric"].map(order).astype(int), "rank": rank}, summary.index
    )
    return summary.loc[keys.sort_values(["metric", "rank"], kind="stable").index]


def _tested(
    adata: AnnData, params: Mapping[str, Any], classes: pd.CategoricalDtype
) -> pd.DataFrame:
    """Donor, where known, and label of every cell."""
    columns = {"donor": params.get("donor_key"), "label": params["labels_key"]}
    found = {
        name: _checks.adata.obs_column(adata, key)
        for name, key in columns.items()
        if key not in (None, "none")
    }
    found["label"] = found["label"].astype(object).map(str, na_action="ignore").astype(classes)
    return pd.DataFrame(found, adata.obs_names).rename_axis("cell")


def _run(
    proba: pd.DataFrame, cells: pd.DataFrame, model: str, repeat: int, classes: pd.CategoricalDtype
) -> pd.DataFrame:
    """One model's predictions in one repeat, of the cells it was tested on.

    Columns in the classes' order.
    """
    values = proba.set_axis([f"proba_{name}" for name in classes.categories], axis=1)
    tested = values.notna().all(axis=1).to_numpy()
    pred = pd.Categorical.from_codes(values[tested].to_numpy().argmax(axis=1), dtype=classes)
    return cells[tested].assign(model=model, repeat=repeat, pred=pred).join(values)
