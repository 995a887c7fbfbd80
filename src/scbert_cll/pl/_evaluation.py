"""pl.evaluation and pl.reliability: models beside baselines, and whether probabilities are true."""

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
# of models whose probabilities are compared
_MARKERS: Final = ("o", "s", "D", "^", "v", "P")
_SHOWN, _MOST = 4, len(_MARKERS)
_BARS: Final = np.linspace(0, 1, 21)


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
    new, n, of = ax is None, len(names), ("metric", "metrics")
    size = (max(3.3, 1.3 + 1.15 * n), 1.7 + 0.17 * max(len(order), 3))
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
    if names is not None:
        return models & set(map(str, names))
    return {name for name in models if "scbert" not in name.lower()}


def chosen(
    adata: AnnData, key: str, models: str | Sequence[str] | None, most: int, by: str
) -> list[str]:
    """The models asked for, else at most so many: the best own one, the best baseline, the best."""
    summary = get.evaluation(adata, key=key, model=models)
    if models is not None:
        return [models] if isinstance(models, str) else list(dict.fromkeys(models))
    metrics = list(summary["metric"])
    by = by if by in metrics else metrics[0]
    ranked = list(summary.loc[summary["metric"] == by, "model"])
    simple = baselines(adata, key)
    candidates = [name for name in ranked if name not in simple]
    others = [name for name in ranked if name in simple]
    first = list(dict.fromkeys([*candidates[:1], *others[:1], *ranked]))[:most]
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


def _rows(ax: Axes, rows: pd.DataFrame, runs: pd.Series[float], simple: set[str]) -> None:
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
            face, label = color, "baseline" if name in simple else label_of_own
            if len(repeats) < row["n_repeats"]:
                face, label = "white", _SOME
            look = {"facecolor": face, "edgecolor": color, "label": label}
            ax.scatter(row["estimate"], i, s=12, marker=marker, zorder=4, lw=1, **look)
            ax.hlines(i, row["low"], row["high"], color=color, linewidth=1.4, zorder=3)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    if not np.isfinite(rows["estimate"]).any():
        ax.set_xticks([])


def _lines(ax: Axes, rows: pd.DataFrame, simple: set[str]) -> None:
    """Chance, or the most common class, and the best baseline: what a model has to be ahead of."""
    defined, chance = rows["estimate"].dropna(), rows["chance"].dropna()  # best first
    lines = [(x, _style.GREY, ":", "chance") for x in chance[:1]]
    if not lines and _MAJORITY in defined:
        lines = [(defined[_MAJORITY], _style.GREY, "-.", "majority")]
    best = defined[defined.index.isin(simple)][:1]
    lines += [(x, _style.ORANGE, "--", "best baseline") for x in best]
    for x, color, style, label in lines:
        ax.axvline(float(x), color=color, ls=style, lw=0.9, zorder=1, label=label)


def _undefined(ax: Axes, rows: pd.DataFrame) -> None:
    """Say in its row why a model has no value, as far as there is room."""
    reasons = zip(rows["estimate"], rows["note"], strict=True)
    missing = {i: note for i, (value, note) in enumerate(reasons) if np.isnan(value)}
    if not missing:
        return
    _style.lay_out(ax)
    room = int(_style.width(ax) * 72 / (0.53 * _style.SMALL))
    for i, note in missing.items():
        reason = f"undefined: {note.split(';')[0]}"
        lines = textwrap.wrap(reason, room, max_lines=2, placeholder="…")
        text = _style.in_row(ax, 0.02, i, "\n".join(lines), linespacing=0.9, zorder=5)
        text.set_in_layout(False)
        text.set_bbox(_style.WHITE | {"pad": 0})


@_style.plot
def reliability(
    adata: AnnData,
    *,
    models: str | Sequence[str] | None = None,
    key: str = _keys.CV,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the observed share of the last class against its predicted probability.

    Cells are put into bins of equal size by their out-of-fold probability. On the diagonal a
    probability of 70 % comes true in 70 % of the cells; below it the model promises too much. Bars
    are Wilson's 95 % intervals: they take cells as independent, which cells of one donor are not.
    Below, how the probabilities are spread. Repeats are pooled. The legend gives expected
    calibration error and Brier score (smaller is better), where they were computed.

    Parameters
    ----------
    %(adata_after tl.cross_validate)s
    models
        Models to draw, at most six. By default up to four: the best own model, the best baseline,
        and who else is ahead by the Brier score (or the first metric).
    %(key tl.cross_validate)s
    %(figsize)s
    ax
        Axes to draw in, without the probabilities below.
    %(show)s

    Returns
    -------
    The two axes (one if `ax` is given), None if the figure is shown, or the figure.

    Raises
    ------
    KeyError
        There is no such result or model; what there is is listed.
    ValueError
        More models than can be told apart.
    """
    table = get.evaluation(adata, "reliability", key=key)
    names = chosen(adata, key, models, _SHOWN, "brier")
    if len(names) > _MOST:
        raise ValueError(
            f"At most {_MOST} models can be told apart in one plot, found {len(names)}; name "
            "fewer in models=."
        )
    new, size = ax is None, (3.3, 3.3 + 0.15 * len(names))
    heights = [3, 1] if new else [1]
    scales: _style.Look = {"sharex": True, "height_ratios": heights}
    axes = _style.panels(ax, figsize, size, len(heights), **scales)
    axes[0].axline((0, 0), (1, 1), color=_style.GREY, linewidth=0.8, linestyle=":")
    for i, name in enumerate(names):
        _curve(axes[0], table[table["model"] == name], i, _label(adata, name, key))
        if new:
            _spread(axes[1], get.out_of_fold(adata, model=name, key=key).iloc[:, -1], i)
    positive = _style.shortened(str(adata.uns[key]["classes"][-1]))
    axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[0].set_ylabel(f"observed share of {positive}")
    axes[-1].set_xlabel(f"predicted probability of {positive}")
    _style.legend(axes[:1], new=new)
    title(axes[0], unit(adata, key, interval=False), new=new)
    return axes


def _curve(ax: Axes, bins: pd.DataFrame, i: int, label: str) -> None:
    """One model: a point per bin with its interval."""
    bins = bins.sort_values("predicted")
    observed = bins["observed"].to_numpy()
    error = np.abs(np.stack([observed - bins["low"], bins["high"] - observed]))
    look: _style.Look = {"marker": _MARKERS[i], "ms": 3.5, "lw": 0.9, "elinewidth": 0.7}
    color = _style.PALETTE[i]
    ax.errorbar(bins["predicted"], observed, error, color=color, label=label, **look)


def _label(adata: AnnData, model: str, key: str) -> str:
    """Name of a model with its calibration error and Brier score, as far as computed."""
    table = get.evaluation(adata, key=key, model=model)
    summary = table.set_index("metric")["estimate"]
    values = [
        f"{word} {'undefined' if np.isnan(summary[metric]) else f'{summary[metric]:.3f}'}"
        for metric, word in (("ece", "ECE"), ("brier", "Brier"))
        if metric in summary
    ]
    return ": ".join(filter(None, [_style.middle_cut(model), ", ".join(values)]))


def _spread(ax: Axes, probabilities: pd.Series[float], i: int) -> None:
    """Share of one model's predictions by probability of the last class, over all repeats."""
    n, _ = np.histogram(probabilities, _BARS)
    ax.stairs(100 * n / n.sum(), _BARS, color=_style.PALETTE[i], linewidth=0.9)
    ax.set_ylabel("share, %")
