"""pl.history: how a model trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scbert_cll import _record
from scbert_cll._checks.words import listed
from scbert_cll.pl import _style

# by metric and part, values by epoch
type Curves = dict[str, dict[str, pd.Series[float]]]

_PARTS: Final = {"train": (_style.BLUE, "o"), "validation": (_style.RED, "s")}
_BASELINE: Final = "majority_"
_TITLES: Final = {
    "loss": "cross-entropy",
    "protein_loss": "proteins: squared error",
    "accuracy": "accuracy",
    "masked_accuracy": "accuracy (hidden)",
    "macro_f1": "macro-F1",
}


@_style.plot
def history(
    model: object,
    *,
    metrics: list[str] | None = None,
    monitor: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw loss and accuracy over the epochs, for training and validation cells.

    A panel per metric, the same quantity for both kinds of cells: ``loss`` is the cross-entropy, of
    a classifier that of the classes alone; what it learns of proteins at the same time is
    ``protein_loss``. Training cells are measured while the epoch lasts, with dropout and tokens
    left out, validation cells at its end, without. Where the history holds a majority baseline
    (always guessing the most common bin), it is drawn too: an accuracy is good only above it. The
    epoch whose weights the model has is marked: the best one after early stopping, else the last.

    Parameters
    ----------
    model
        A model of this package after training, or its ``history``: a dict of one-column DataFrames
        by epoch, the first of which is 1.
    metrics
        Panels to draw, of those recorded: ``"loss"``, ``"protein_loss"``, ``"masked_accuracy"``,
        ``"accuracy"``, ``"macro_f1"``. By default all.
    monitor
        Entry of the history whose best epoch is marked instead: the lowest of a loss, the highest
        of anything else. Nothing is marked if it was not recorded. None: the epoch that the model
        keeps; a history does not say which, so its best ``"validation_loss"``.
    %(figsize)s
    %(ax_of_one metric)s
    %(show)s

    Returns
    -------
    %(drawn_of_several metrics)s

    Raises
    ------
    TypeError
        `model` is neither a model nor a history.
    ValueError
        The model is not trained, or `ax` is given for several metrics.
    KeyError
        A metric was not recorded.
    """
    entries = _history(model)
    curves = _curves(entries)
    names = [name for name in curves if not name.startswith(_BASELINE)]
    if metrics is not None:
        names = _record.named(metrics, curves, "the history")
    if not names:
        raise ValueError(
            "The history records no metric of training or validation cells (named like "
            f"'train_loss' or 'accuracy_validation'); it has {listed(entries, 12)}."
        )
    new, n, size = ax is None, len(names), (max(3.5, 2.4 * len(names)), 2.5)
    columns = max(1, int((figsize or size)[0] // 1.5))
    axes = _style.panels(ax, figsize, size, n, ("metric", "metrics"), n_columns=columns)
    marked = _marked(model, curves, monitor)
    for panel, name in zip(axes, names, strict=True):
        _draw(panel, name, curves, marked)
    n_lines = len(_style.labelled(axes))
    wide = _style.figure_of(axes[0]).get_figwidth() >= 1.3 * n_lines
    look: _style.Look = {"inside": 7, "ncols": n_lines if wide else 2}
    look["order"] = lambda label: label.startswith(("best", "weights"))
    _style.legend(axes, new=new, loc="outside upper center", **look)
    return axes


def _history(model: object) -> Mapping[str, pd.DataFrame]:
    """The history of a model, or what was given."""
    history = getattr(model, "history", model)
    if history is None or (isinstance(history, Mapping) and not history):
        raise ValueError("There is no history: train the model first (model.train()).")
    if not isinstance(history, Mapping):
        raise TypeError(
            "Expected a trained model or its history (a dict of DataFrames), found "
            f"{type(model).__name__}."
        )
    return history


def _curves(history: Mapping[str, pd.DataFrame]) -> Curves:
    """Values by epoch; `train_loss` and `loss_train` are the same, others are left out."""
    curves: Curves = {}
    for key, entry in history.items():
        for part in _PARTS:
            name = key.removeprefix(f"{part}_").removesuffix(f"_{part}")
            if name != key and not name.endswith(("_step", "_epoch")):
                series = pd.DataFrame(entry).iloc[:, 0].dropna().astype(float)
                curves.setdefault(name, {})[part] = series
    order = {name: i for i, name in enumerate(_TITLES)}
    return dict(sorted(curves.items(), key=lambda item: order.get(item[0], len(order))))


def _marked(model: object, curves: Curves, monitor: str | None) -> dict[str, int]:
    """The epoch to mark, if any, by what it is."""
    kept_epoch = getattr(model, "kept_epoch_", None) if monitor is None else None
    if kept_epoch is not None:
        when = f"epoch {kept_epoch}" if kept_epoch else "before training"
        return {f"weights kept ({when})": kept_epoch}
    monitor = monitor or "validation_loss"
    for name, parts in curves.items():
        for part, series in parts.items():
            if monitor in (f"{part}_{name}", f"{name}_{part}") and len(series):
                row = series.argmin() if "loss" in name else series.argmax()
                best = int(series.index[int(row)])
                return {f"best epoch ({best})": best}
    return {}


def _draw(ax: Axes, name: str, curves: Curves, marked: dict[str, int]) -> None:
    """One metric: both parts, the baseline and the marked epoch."""
    for part, (color, marker) in _PARTS.items():
        if part in curves[name]:
            series = curves[name][part]
            few = marker if len(series) <= 30 else ""
            look: _style.Look = {"marker": few, "markersize": 3, "linewidth": 1.2}
            ax.plot(series.index, series, "-", color=color, label=part, **look)
    if name.endswith("accuracy"):
        baseline = curves.get(f"{_BASELINE}{name.removeprefix('masked_')}", {})
        for part in [part for part in ("validation", "train") if part in baseline][:1]:
            x, y = baseline[part].index, baseline[part]
            label = f"majority, {part}"
            ax.plot(x, y, "--", color=_style.GREY, linewidth=1, label=label)
    for label, epoch in marked.items():
        ax.axvline(epoch, color=_style.GREY, lw=0.8, ls=":", label=label, zorder=0)
    ax.set(xlabel="epoch", ylabel=_TITLES.get(name, name.replace("_", " ")))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if max(map(len, curves[name].values())) == 1:
        ax.set_xticks(next(iter(curves[name].values())).index)
