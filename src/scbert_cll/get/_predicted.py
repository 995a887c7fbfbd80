"""get.predictions, get.donor_table and what tl.cross_validate wrote: classes and their scores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Final, cast

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._checks.words import key_in, listed
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER

_VERB: Final = "tl.cross_validate"


def predictions(
    adata: AnnData,
    *,
    labels_key: str | None = None,
    pred_key: str = _keys.PRED,
    split_key: str = _keys.SPLIT,
    split: str | None = None,
) -> pd.DataFrame:
    """Predicted class of each cell, beside its label.

    What ``tl.finetune`` and ``tl.predict`` wrote, one row per cell in the order of the cells.

    Parameters
    ----------
    adata
        Cells × genes with predictions.
    labels_key
        `obs` column of the labels to put beside the predictions.
    pred_key
        `obs` column of the predicted classes. Score and probabilities are those of the same name,
        where they exist: ``scbert_pred`` goes with ``scbert_score`` and ``scbert_proba``.
    split_key
        `obs` column of the split; listed where it exists.
    split
        Only these cells: ``"train"``, ``"val"`` or ``"test"``. By default all cells, those trained
        on among them.

    Returns
    -------
    DataFrame by cell, with ``split`` and ``label`` where there are such, ``pred``, ``score``
    (largest probability) and one ``proba_<class>`` per class.

    Raises
    ------
    KeyError
        A column is missing; those that exist are listed.
    ValueError
        No cell is in `split`.
    """
    obs = cast("pd.DataFrame", _checks.adata.anndata(adata).obs)
    key_in(pred_key, obs, "adata.obs", "Run tl.finetune or tl.predict first.")
    if split is not None:
        _checks.adata.split(adata, split_key, need=(split,))
    stem = pred_key.removesuffix(_keys.beside("", "pred"))
    columns = {"split": split_key, "label": labels_key, "pred": pred_key}
    columns["score"] = _keys.beside(stem, "score")
    if labels_key is not None:
        key_in(labels_key, obs, "adata.obs")
    table = pd.DataFrame({n: obs[k] for n, k in columns.items() if k in obs}, obs.index)
    table = table.rename_axis("cell")
    proba = adata.obsm.get(_keys.beside(stem, "proba"))
    if isinstance(proba, pd.DataFrame):
        table = table.join(_names.own_columns(proba, adata.uns).add_prefix("proba_"))
    return table if split is None else table[table["split"] == split]


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


@_docs.shared
def evaluation(
    adata: AnnData,
    table: str = "summary",
    *,
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
    record, where = _record.read(adata, key, _VERB), f"adata.uns[{key!r}]"
    tables = {k: v for k, v in record.items() if isinstance(v, pd.DataFrame)}
    key_in(table, tables, where)
    rows = tables[table].copy()
    for column, names in (("metric", metric), ("model", model)):
        rows = only(rows, column, names, f"{where}[{table!r}]")
    return (_best_first(rows) if table == "summary" else rows).reset_index(drop=True)


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
    record, proba_key = _record.read(adata, key, _VERB), _keys.beside(key, "proba")
    key_in(proba_key, adata.obsm, "adata.obsm", f"Run {_VERB} first.")
    where = f"adata.obsm[{proba_key!r}]"
    table = cast("pd.DataFrame", adata.obsm[proba_key])
    runs = [_names.parts(str(column), adata.uns)[:2] for column in table.columns]
    models = _record.named(model, [name for name, _ in runs], f"the models of {where}")
    repeats = dict.fromkeys(int(number) for _, number in runs)
    if repeat is not None and repeat not in repeats:
        numbers = listed(repeats, 12)
        raise KeyError(f"Repeat {repeat} is not in {where}; it has {numbers}.")
    ordered = bool(record.get("ordered", False))
    classes = pd.CategoricalDtype(list(map(str, record["classes"])), ordered=ordered)
    donor_key, parts = record["params"].get("donor_key"), []
    labels = _checks.adata.obs_column(adata, record["params"]["labels_key"])
    labels = labels.astype(object).map(str, na_action="ignore").astype(classes)
    cells = pd.DataFrame({"label": labels}).rename_axis("cell")
    if donor_key not in (None, _record.NOTHING):
        cells.insert(0, "donor", _checks.adata.obs_column(adata, donor_key))
    for name, number in product(models, repeats):
        if (name, str(number)) in runs and repeat in (None, number):
            of_run = [run == (name, str(number)) for run in runs]
            parts.append(_run(table.loc[:, of_run], cells, model=name, repeat=number))
    return pd.concat(parts)


def only(
    table: pd.DataFrame, column: str, names: str | Iterable[str] | None, where: str
) -> pd.DataFrame:
    """The rows with these names in a column; all rows without any."""
    if names is None:
        return table
    if column not in table:
        columns = listed(table.columns, 20)
        raise ValueError(
            f"{where} is not by {column}; leave {column}= out. Its columns are {columns}."
        )
    existing = table[column].astype(str)
    names = _record.named(names, existing, f"the column {column!r} of {where}")
    return table[existing.isin(names)]


def _best_first(summary: pd.DataFrame) -> pd.DataFrame:
    """Metrics in their order, models of each from best to worst; undefined last."""
    lower = summary["metric"].isin(list(LOWER_IS_BETTER))
    estimate = summary["estimate"]
    keys = pd.DataFrame({"rank": estimate.where(lower, -estimate)})
    keys["metric"] = pd.factorize(summary["metric"])[0]
    return summary.loc[keys.sort_values(["metric", "rank"], kind="stable").index]


def _run(proba: pd.DataFrame, cells: pd.DataFrame, **run: str | int) -> pd.DataFrame:
    """One model's predictions in one repeat, of the cells it was tested on."""
    classes = cast("pd.CategoricalDtype", cells["label"].dtype)
    values = proba.set_axis([f"proba_{name}" for name in classes.categories], axis=1)
    tested = values.notna().all(axis=1).to_numpy()
    codes = values[tested].to_numpy().argmax(axis=1)
    pred = pd.Categorical.from_codes(codes, dtype=classes)
    return cells[tested].assign(**run, pred=pred).join(values)
