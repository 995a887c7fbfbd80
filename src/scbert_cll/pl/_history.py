"""pl.history: how a model trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scbert_cll._checks.words import key_in, listed
from scbert_cll.pl import _style

_PARTS: Final = {"train": (_style.BLUE, "-", "o"), "validation": (_style.RED, "-", "s")}
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
    model: Any,
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
    curves = _curves(_history(model))
    names = (
        [name for name in curves if not name.startswith(_BASELINE)]
        if metrics is None
        else list(metrics)
    )
    if not names:
        raise ValueError(
            "The history records no metric of training or validation cells (named like "
            "'train_loss' or 'accuracy_validation'); "
            f"it has {listed(_history(model), 12)}."
        )
    for name in names:
        key_in(name, curves, "the history")
    if ax is not None and len(names) > 1:
        raise ValueError(
            f"ax holds one metric, there are {len(names)}; name one with metrics=, or leave ax out."
        )
    if ax is None:
        size = figsize or (max(3.5, 2.4 * len(names)), 2.5)
        fig, axes = _style.panels(len(names), n_columns=max(1, int(size[0] // 1.5)), figsize=size)
    else:
        fig, axes = _style.figure_of(ax), [ax]
    marked = _marked(model, curves, monitor)
    for panel, name in zip(axes, names, strict=True):
        _draw(panel, name, curves, marked)
    _legend(fig, axes, apart=ax is None)
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _history(model: Any) -> Mapping[str, pd.DataFrame]:
    """The history of a model, or what was given."""
    found = getattr(model, "history", model)
    if found is None or (isinstance(found, Mapping) and not found):
        raise ValueError("There is no history: train the model first (model.train()).")
    if not isinstance(found, Mapping):
        raise TypeError(
            f"Expected a trained model or its history (a dict of DataFrames), found "
            f"{type(model).__name__}."
        )
    return found


def _curves(history: Mapping[str, Any]) -> dict[str, dict[str, pd.Series]]:
    """Metric → part → values by epoch; `train_loss` and `loss_train` are the same.

    What is neither is left out.
    """
    curves: dict[str, dict[str, pd.Series]] = {}
    for key, found in history.items():
        for part in _PARTS:
            name = key.removeprefix(f"{part}_").removesuffix(f"_{part}")
            if name != key and not name.endswith(("_step", "_epoch")):
                series = pd.DataFrame(found).iloc[:, 0].dropna().astype(float)
                curves.setdefault(name, {})[part] = series
    order = {name: i for i, name in enumerate(_TITLES)}
    return dict(sorted(curves.items(), key=lambda item: order.get(item[0], len(order))))


def _best(curves: Mapping[str, Mapping[str, pd.Series]], monitor: str) -> int | None:
    """Epoch with the best value of the monitored entry."""
    for name, parts in curves.items():
        for part, series in parts.items():
            if monitor in (f"{part}_{name}", f"{name}_{part}") and len(series):
                return int(
                    series.index[int(series.argmin() if "loss" in name else series.argmax())]
                )
    return None


def _marked(
    model: Any, curves: Mapping[str, Mapping[str, pd.Series]], monitor: str | None
) -> tuple[int, str] | None:
    """The epoch to mark, and what it is."""
    kept = getattr(model, "kept_epoch_", None) if monitor is None else None
    if kept is not None:
        return kept, f"weights kept (epoch {kept})" if kept else "weights kept (before training)"
    best = _best(curves, monitor or "validation_loss")
    return None if best is None else (best, f"best epoch ({best})")


def _draw(
    ax: Axes,
    name: str,
    curves: Mapping[str, Mapping[str, pd.Series]],
    marked: tuple[int, str] | None,
) -> None:
    """One metric: both parts, the baseline and the marked epoch."""
    for part, (color, line, marker) in _PARTS.items():
        if part not in curves[name]:
            continue
        series = curves[name][part]
        few = marker if len(series) <= 30 else ""
        ax.plot(
            series.index,
            series,
            line,
            color=color,
            marker=few,
            markersize=3,
            linewidth=1.2,
            label=part,
        )
    for part, series in _baseline(name, curves):
        ax.plot(
            series.index, series, "--", color=_style.GREY, linewidth=1, label=f"majority, {part}"
        )
    if marked is not None:
        ax.axvline(
            marked[0], color=_style.GREY, linewidth=0.8, linestyle=":", label=marked[1], zorder=0
        )
    ax.set(xlabel="epoch", ylabel=_TITLES.get(name, name.replace("_", " ")))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if max(map(len, curves[name].values())) == 1:
        ax.set_xticks(next(iter(curves[name].values())).index)


def _legend(fig: Figure, axes: list[Axes], *, apart: bool) -> None:
    """One legend for all panels, above them; inside the user's axes."""
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= {
            label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
    order = sorted(handles, key=lambda label: label.startswith(("best", "weights")))
    if apart:
        columns = len(order) if fig.get_figwidth() >= 1.3 * len(order) else 2
        fig.legend([handles[o] for o in order], order, loc="outside upper center", ncols=columns)
    else:
        axes[0].legend([handles[o] for o in order], order)


def _baseline(
    name: str, curves: Mapping[str, Mapping[str, pd.Series]]
) -> list[tuple[str, pd.Series]]:
    """The majority baseline that belongs to a metric: of the validation cells where there are such."""
    parts = (
        curves.get(f"{_BASELINE}{name.removeprefix('masked_')}", {})
        if name.endswith("accuracy")
        else {}
    )
    return [(part, parts[part]) for part in ("validation", "train") if part in parts][:1]
