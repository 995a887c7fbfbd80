"""pl.evaluation: models beside baselines, with what is uncertain about them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys, get
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER
from scbert_cll.pl import _style

TITLES: Final = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auroc_within": "AUROC within donors",
    "auprc": "AUPRC",
    "kappa_quadratic": "quadratic κ",
    "brier": "Brier score",
    "log_loss": "log loss",
    "ece": "ECE",
}
_MAJORITY: Final = "majority"
# colour and marker, so that both kinds are told apart without colour, too
_BASELINE, _OWN = (_style.ORANGE, "s"), (_style.BLUE, "o")
_REPEAT, _SOME = "single repeat", "some repeats undefined"
_ORDER: Final = (
    "scBERT",
    "model",
    "baseline",
    _SOME,
    _REPEAT,
    "best baseline",
    "chance",
    "majority",
)
_SMALL: Final = 6  # points, of text in a row


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
    wanted = (
        _default(adata, key)
        if metrics is None
        else [metrics]
        if isinstance(metrics, str)
        else list(metrics)
    )
    if ax is not None and len(wanted) > 1:
        raise ValueError(
            f"ax holds one metric, there are {len(wanted)}; name one with metrics=, or leave "
            f"ax out."
        )
    summary = get.evaluation(adata, key=key, metric=wanted)
    scores = get.evaluation(adata, table="scores", key=key, metric=wanted)
    names = list(get.evaluation(adata, key=key, metric=sort_by or wanted[0], model=models)["model"])
    simple = baselines(adata, key)
    if ax is None:
        fig, axes = _figure(len(wanted), len(names), figsize)
    else:
        fig, axes = _style.figure_of(ax), [ax]
    for panel, metric in zip(axes, wanted, strict=True):
        rows, runs = (t[t["metric"] == metric].drop(columns="metric") for t in (summary, scores))
        _lines(panel, rows.set_index("model"), simple)
        _rows(panel, rows.set_index("model").loc[names], runs, simple)
        panel.set(title=TITLES.get(metric, metric), xlabel=_direction(metric))
    _frame(fig, axes, names, unit(adata, key), apart=ax is None)
    for panel, metric in zip(axes, wanted, strict=True):
        _undefined(panel, summary[summary["metric"] == metric].set_index("model").loc[names])
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _default(adata: AnnData, key: str) -> list[str]:
    """Macro-F1 and an AUROC, else what there is."""
    there = list(dict.fromkeys(get.evaluation(adata, key=key)["metric"]))
    area = next((name for name in ("auroc_within", "auroc") if name in there), "")
    return [name for name in ("macro_f1", area) if name in there] or there[:2]


def baselines(adata: AnnData, key: str) -> set[str]:
    """Models that count as baselines: those that the cross-validation names, else all but scBERT's."""
    named = adata.uns[key]["params"].get("baselines")
    models = {str(name) for name in adata.uns[key]["summary"]["model"]}
    return (
        {name for name in models if "scbert" not in name.lower()}
        if named is None
        else models & set(map(str, named))
    )


def leading(adata: AnnData, key: str, most: int, by: str) -> list[str]:
    """At most so many models, best first: the best own one, the best baseline, and who else is ahead."""
    summary = get.evaluation(adata, key=key)
    metrics = list(dict.fromkeys(summary["metric"]))
    ranked = list(summary.loc[summary["metric"] == (by if by in metrics else metrics[0]), "model"])
    simple = baselines(adata, key)
    own, others = [m for m in ranked if m not in simple], [m for m in ranked if m in simple]
    chosen = list(dict.fromkeys([*own[:1], *others[:1], *ranked]))[:most]
    return sorted(chosen, key=ranked.index)


def chosen(
    adata: AnnData, key: str, models: str | Sequence[str] | None, most: int, by: str
) -> list[str]:
    """The models asked for, which must be there, else the leading ones."""
    if models is None:
        return leading(adata, key, most, by)
    names = [models] if isinstance(models, str) else list(dict.fromkeys(models))
    get.evaluation(adata, key=key, model=names)
    return names


def averaged(adata: AnnData, model: str, key: str) -> pd.DataFrame:
    """Out-of-fold prediction of each labelled cell, mean over the repeats."""
    runs = get.out_of_fold(adata, model=model, key=key)
    proba = [column for column in runs.columns if str(column).startswith("proba_")]
    mean = runs.groupby(level=0, sort=False)[proba].mean()
    cells = runs[~runs.index.duplicated()].loc[mean.index]
    classes = cast("pd.CategoricalDtype", cells["label"].dtype)
    pred = pd.Categorical.from_codes(mean.to_numpy().argmax(axis=1), dtype=classes)
    return cells.drop(columns=proba).assign(pred=pred).join(mean)


def short(name: str, longest: int = 22) -> str:
    """A name cut in its middle: variants of a model differ at the end."""
    left = longest // 2
    return name if len(name) <= longest else f"{name[:left]}…{name[left + 1 - longest :]}"


def unit(adata: AnnData, key: str, *, interval: bool = True) -> str:
    """Who was held out, and what the intervals speak of."""
    held = adata.uns[key]
    n_donors = held["donors"]["donor"].nunique()
    if str(held["params"].get("scheme")) == "random_cell":
        donors = {0: "donors unknown", 1: "one donor"}.get(
            n_donors, f"{n_donors} donors, each on both sides"
        )
        who = f"{donors}: cells held out at random (optimistic)"
    else:
        who = f"{n_donors} donors held out"
    return f"{who}\n{_kind(held['summary']['interval'])}" if interval else who


def _kind(intervals: pd.Series) -> str:
    """What most of the intervals are."""
    known = intervals.astype(str)[intervals.astype(str) != "none"]
    if known.empty:
        return "no interval"
    kind = str(known.mode()[0])
    return (
        f"95 % interval: {kind}"
        if kind.startswith("bootstrap")
        else "lines: lowest to highest single donor"
    )


def wrapped(text: str, inches: float) -> str:
    """Text of 8 points, broken to fit a width."""
    return "\n".join(
        "\n".join(textwrap.wrap(line, max(20, int(inches * 17)))) for line in text.split("\n")
    )


def _figure(n: int, n_rows: int, figsize: tuple[float, float] | None) -> tuple[Figure, list[Axes]]:
    """Panels beside each other, as high as the models need."""
    size = figsize or (max(3.3, 1.3 + 1.15 * n), 1.7 + 0.17 * max(n_rows, 3))
    return _style.panels(n, n_columns=n, figsize=size, sharey=True)


def _rows(ax: Axes, rows: pd.DataFrame, runs: pd.DataFrame, simple: set[str]) -> None:
    """Estimate and interval of each model; the repeats below them, where there are several."""
    own = (
        "scBERT"
        if all("scbert" in name.lower() for name in rows.index if name not in simple)
        else "model"
    )
    for i, (name, row) in enumerate(rows.iterrows()):
        color, marker = _BASELINE if name in simple else _OWN
        single = runs.loc[runs["model"] == name, "value"].dropna()
        if len(single) > 1:
            y = np.full(len(single), i + 0.31)
            ax.scatter(
                single, y, s=3, color=color, alpha=0.6, linewidths=0, zorder=2, label=_REPEAT
            )
        if np.isfinite(row["estimate"]):
            whole = len(single) == row["n_repeats"]
            label = _SOME if not whole else "baseline" if name in simple else own
            look: dict[str, Any] = {
                "facecolor": color if whole else "white",
                "edgecolor": color,
                "linewidth": 1,
            }
            ax.scatter(row["estimate"], i, s=12, marker=marker, zorder=4, label=label, **look)
            ax.hlines(i, row["low"], row["high"], color=color, linewidth=1.4, zorder=3)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    if not np.isfinite(rows["estimate"]).any():
        ax.set_xticks([])


def _lines(ax: Axes, rows: pd.DataFrame, simple: set[str]) -> None:
    """What there is to be ahead of."""
    defined = rows["estimate"].dropna()  # best first
    chance = rows["chance"].dropna()
    if len(chance):
        _line(ax, chance.iloc[0], _style.GREY, ":", "chance")
    elif _MAJORITY in defined:
        _line(ax, defined[_MAJORITY], _style.GREY, "-.", "majority")
    best = [name for name in defined.index if name in simple]
    if best:
        _line(ax, defined[best[0]], _style.ORANGE, "--", "best baseline")


def _line(ax: Axes, x: float, color: str, style: str, label: str) -> None:
    ax.axvline(float(x), color=color, linestyle=style, linewidth=0.9, zorder=1, label=label)


def _direction(metric: str) -> str:
    return "← better" if metric in LOWER_IS_BETTER else "better →"


def _frame(fig: Figure, axes: list[Axes], names: list[str], title: str, *, apart: bool) -> None:
    """Names of the models, the best on top; legend and title for all panels."""
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(names) - 0.4, -0.6)
    axes[0].set_yticks(range(len(names)), [short(name) for name in names])
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= {
            label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
    order = sorted(handles, key=_ORDER.index)
    if apart:
        room = fig.get_figwidth()
        columns = min(len(order), 2 if room < 4 else 3 if room < 6 else 6)
        fig.legend(
            [handles[o] for o in order],
            order,
            loc="outside lower center",
            ncols=columns,
            columnspacing=1.2,
        )
        fig.suptitle(wrapped(title, room), fontsize=8)
    else:
        axes[0].legend([handles[o] for o in order], order, fontsize=6)
        axes[0].set_title(f"{axes[0].get_title()}\n{title}", wrap=True)


def _undefined(ax: Axes, rows: pd.DataFrame) -> None:
    """Say in its row why a model has no value, as far as there is room."""
    missing = [
        (i, note)
        for i, (value, note) in enumerate(zip(rows["estimate"], rows["note"], strict=True))
        if np.isnan(value)
    ]
    if not missing:
        return
    fig = _style.figure_of(ax)
    fig.draw_without_rendering()  # lays the panels out; only now their width is known
    room = int(ax.get_window_extent().width / fig.dpi * 72 / (0.53 * _SMALL))
    for i, note in missing:
        lines = textwrap.wrap(
            f"undefined: {note.split(';')[0]}", room, max_lines=2, placeholder="…"
        )
        text = ax.text(
            0.02,
            i,
            "\n".join(lines),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=_SMALL,
        )
        text.set(color=_style.GREY, linespacing=0.9, zorder=5, in_layout=False)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0})
