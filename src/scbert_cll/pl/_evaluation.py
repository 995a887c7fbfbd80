"""pl.evaluation: models beside baselines, with what is uncertain about them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys, _record, get
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER
from scbert_cll.pl import _style

TITLES: Final = {
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auroc_within": "AUROC within donors",
    "auprc": "AUPRC",
    "kappa_quadratic": "quadratic κ",
    "brier": "Brier score",
    "ece": "ECE",
}
_MAJORITY: Final = "majority"
# colour and marker, so that both kinds are told apart without colour, too
_BASELINE, _OWN = (_style.ORANGE, "s"), (_style.BLUE, "o")
_REPEAT, _SOME = "single repeat", "some repeats undefined"
_LINES: Final = ("best baseline", "chance", "majority")
_ORDER: Final = ("scBERT", "model", "baseline", _SOME, _REPEAT, *_LINES)


@_style.plot
def evaluation(
    adata: AnnData,
    *,
    metrics: str | Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    sort_by: str | None = None,
    key: str = _keys.CV,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how well models predict cells of donors they have not seen, beside baselines.

    A panel per metric, a row per model, the best on top: the estimate, its 95 % interval, and small
    dots for the single repeats. Two lines say what a model has to be ahead of: chance (for a metric
    without such a value, the model that always says the most common class), and the best of all
    baselines. The title says over what the interval speaks; intervals of two models may overlap
    although one is ahead in every draw: differences are in ``get.evaluation(adata,
    table="differences")``.

    Parameters
    ----------
    %(adata_after tl.cross_validate)s
    metrics
        Metric or metrics to draw, of those computed. By default macro-F1 and the AUROC within
        donors, or over all cells where that alone was computed: where donors are held out, cells of
        different donors were scored by different models.
    models
        Models to draw. By default all. Chance and best baseline are drawn either way.
    sort_by
        Metric by which the rows are sorted. By default the first one drawn.
    %(key tl.cross_validate)s
    %(figsize)s
    %(ax_of_one metric)s
    %(show)s

    Returns
    -------
    %(drawn_of_several metrics)s

    Raises
    ------
    KeyError
        There is no such result, metric or model; what there is is listed.
    ValueError
        `ax` is given for several metrics.
    """
    everything = get.evaluation(adata, key=key)
    where = f"the column 'metric' of adata.uns[{key!r}]['summary']"
    names = _record.named(metrics, everything["metric"], where)
    names = names if metrics is not None else _default(names)
    summary = get.evaluation(adata, key=key, metric=names)
    scores = get.evaluation(adata, "scores", key=key, metric=names)
    by = sort_by or names[0]
    order = list(get.evaluation(adata, key=key, metric=by, model=models)["model"])
    simple = baselines(adata, key)
    new, n = ax is None, len(names)
    size = (max(3.3, 1.3 + 1.15 * n), 1.7 + 0.17 * max(len(order), 3))
    of = ("metric", "metrics")
    axes = _style.panels(ax, figsize, size, n, of, n_columns=n, sharey=True)
    summary = summary.set_index("model")
    by_metric = {name: summary[summary["metric"] == name] for name in names}
    for panel, (name, rows) in zip(axes, by_metric.items(), strict=True):
        runs = scores[scores["metric"] == name].set_index("model")["value"].dropna()
        _lines(panel, rows, simple)
        _rows(panel, rows.loc[order], runs, simple)
        better = "← better" if name in LOWER_IS_BETTER else "better →"
        panel.set(title=TITLES.get(name, name.replace("_", " ")), xlabel=better)
        _style.name_rows(panel, [_style.middle_cut(model) for model in order])
    wide = _style.figure_of(axes[0]).get_figwidth()
    columns = min(len(_style.labelled(axes)), 2 if wide < 4 else 3 if wide < 6 else 6)
    _style.legend(axes, new=new, order=_ORDER.index, ncols=columns, columnspacing=1.2)
    title(axes[0], unit(adata, key), new=new)
    for panel, rows in zip(axes, by_metric.values(), strict=True):
        _undefined(panel, rows.loc[order])
    return axes


def _default(computed: list[str]) -> list[str]:
    """Macro-F1 and an AUROC, else the first two metrics."""
    area = next((name for name in ("auroc_within", "auroc") if name in computed), "")
    return [name for name in ("macro_f1", area) if name in computed] or computed[:2]


def title(ax: Axes, text: str, *, new: bool) -> None:
    """Title of a figure of our own, or a further line in that of the user's axes."""
    if new:
        fig = _style.figure_of(ax)
        fig.suptitle(_style.broken(text, fig.get_figwidth() * 17), fontsize=8)
    else:
        ax.set_title(f"{ax.get_title()}\n{text}".strip(), wrap=True)


def baselines(adata: AnnData, key: str) -> set[str]:
    """Models that the cross-validation names as baselines, else all but scBERT's."""
    names = adata.uns[key]["params"].get("baselines")
    models = {str(name) for name in adata.uns[key]["summary"]["model"]}
    if names is None:
        return {name for name in models if "scbert" not in name.lower()}
    return models & set(map(str, names))


def chosen(
    adata: AnnData, key: str, models: str | Sequence[str] | None, most: int, by: str
) -> list[str]:
    """The models asked for, else at most so many: the best own one, the best baseline, the best."""
    summary = get.evaluation(adata, key=key, model=models)
    if models is not None:
        return [models] if isinstance(models, str) else list(dict.fromkeys(models))
    metrics = list(dict.fromkeys(summary["metric"]))
    by = by if by in metrics else metrics[0]
    ranked = list(summary.loc[summary["metric"] == by, "model"])
    simple = baselines(adata, key)
    best_own = [name for name in ranked if name not in simple][:1]
    best_baseline = [name for name in ranked if name in simple][:1]
    first = list(dict.fromkeys([*best_own, *best_baseline, *ranked]))[:most]
    return sorted(first, key=ranked.index)


def averaged(adata: AnnData, model: str, key: str) -> pd.DataFrame:
    """Out-of-fold prediction of each labelled cell, mean over the repeats."""
    runs = get.out_of_fold(adata, model=model, key=key)
    proba = [column for column in runs.columns if str(column).startswith("proba_")]
    mean = runs.groupby(level=0, sort=False)[proba].mean()
    cells = runs[~runs.index.duplicated()].loc[mean.index]
    classes = cast("pd.CategoricalDtype", cells["label"].dtype)
    pred = pd.Categorical.from_codes(mean.to_numpy().argmax(axis=1), dtype=classes)
    return cells.drop(columns=proba).assign(pred=pred).join(mean)


def unit(adata: AnnData, key: str, *, interval: bool = True) -> str:
    """Who was held out, and what the intervals speak of."""
    record = adata.uns[key]
    n_donors = record["donors"]["donor"].nunique()
    who = f"{n_donors} donors held out"
    if str(record["params"].get("scheme")) == "random_cell":
        several = f"{n_donors} donors, each on both sides"
        donors = {0: "donors unknown", 1: "one donor"}.get(n_donors, several)
        who = f"{donors}: cells held out at random (optimistic)"
    if not interval:
        return who
    kinds = record["summary"]["interval"].astype(str)
    kinds = kinds[kinds != "none"]
    if kinds.empty:
        return f"{who}\nno interval"
    kind = str(kinds.mode()[0])
    bootstrap, lines = f"95 % interval: {kind}", "lines: lowest to highest single donor"
    return f"{who}\n{bootstrap if kind.startswith('bootstrap') else lines}"


def _rows(ax: Axes, rows: pd.DataFrame, runs: pd.Series, simple: set[str]) -> None:
    """Estimate and interval of each model; the repeats below them, where there are several."""
    others = [str(name).lower() for name in rows.index if name not in simple]
    label_of_own = "scBERT" if all("scbert" in name for name in others) else "model"
    for i, (name, row) in enumerate(rows.iterrows()):
        color, marker = _BASELINE if name in simple else _OWN
        repeats = runs[runs.index == name]
        if len(repeats) > 1:
            look: _style.Look = {"s": 3, "alpha": 0.6, "linewidths": 0}
            y = np.full(len(repeats), i + 0.31)
            ax.scatter(repeats, y, color=color, zorder=2, label=_REPEAT, **look)
        if np.isfinite(row["estimate"]):
            all_defined = len(repeats) == row["n_repeats"]
            label = "baseline" if name in simple else label_of_own
            look = {"facecolor": color if all_defined else "white", "edgecolor": color}
            look |= {"linewidth": 1, "label": label if all_defined else _SOME}
            ax.scatter(row["estimate"], i, s=12, marker=marker, zorder=4, **look)
            ax.hlines(i, row["low"], row["high"], color=color, linewidth=1.4, zorder=3)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    if not np.isfinite(rows["estimate"]).any():
        ax.set_xticks([])


def _lines(ax: Axes, rows: pd.DataFrame, simple: set[str]) -> None:
    """Chance, or the most common class, and the best baseline: what a model has to be ahead of."""
    defined, chance = rows["estimate"].dropna(), rows["chance"].dropna()  # best first
    lines: list[tuple[float, str, str, str]] = []
    if len(chance):
        lines.append((chance.iloc[0], _style.GREY, ":", "chance"))
    elif _MAJORITY in defined:
        lines.append((defined[_MAJORITY], _style.GREY, "-.", "majority"))
    best = [name for name in defined.index if name in simple][:1]
    lines += [(defined[name], _style.ORANGE, "--", "best baseline") for name in best]
    for x, color, style, label in lines:
        ax.axvline(float(x), color=color, linestyle=style, linewidth=0.9, zorder=1, label=label)


def _undefined(ax: Axes, rows: pd.DataFrame) -> None:
    """Say in its row why a model has no value, as far as there is room."""
    estimates = list(zip(rows["estimate"], rows["note"], strict=True))
    missing = {i: note for i, (value, note) in enumerate(estimates) if np.isnan(value)}
    if not missing:
        return
    _style.lay_out(ax)
    room = int(_style.width(ax) * 72 / (0.53 * _style.SMALL))
    for i, note in missing.items():
        reason = f"undefined: {note.split(';')[0]}"
        lines = textwrap.wrap(reason, room, max_lines=2, placeholder="…")
        text = _style.in_row(ax, 0.02, i, "\n".join(lines))
        text.set(linespacing=0.9, zorder=5, in_layout=False)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
