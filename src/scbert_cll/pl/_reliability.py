"""pl.reliability: whether a predicted probability is the share that comes true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, get
from scbert_cll.pl import _evaluation, _style

_MARKERS: Final = ("o", "s", "D", "^", "v", "P")
_SHOWN, _MOST = 4, len(_MARKERS)
_BARS: Final = np.linspace(0, 1, 21)


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
    names = _evaluation.chosen(adata, key, models, _SHOWN, "brier")
    if len(names) > _MOST:
        raise ValueError(
            f"At most {_MOST} models can be told apart in one plot, found {len(names)}; name "
            "fewer in models=."
        )
    new, size = ax is None, (3.3, 3.3 + 0.15 * len(names))
    rows: _style.Look = {"sharex": True, "height_ratios": [3, 1]} if new else {}
    axes = _style.panels(ax, figsize, size, 2 if new else 1, **rows)
    axes[0].axline((0, 0), (1, 1), color=_style.GREY, linewidth=0.8, linestyle=":")
    for i, name in enumerate(names):
        _curve(axes[0], table[table["model"] == name], i, _label(adata, name, key))
        if new:
            _histogram(axes[1], get.out_of_fold(adata, model=name, key=key).iloc[:, -1], i)
    positive = _style.shortened(str(adata.uns[key]["classes"][-1]))
    axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=f"observed share of {positive}")
    axes[-1].set_xlabel(f"predicted probability of {positive}")
    _style.legend(axes[:1], new=new)
    _evaluation.title(axes[0], _evaluation.unit(adata, key, interval=False), new=new)
    return axes


def _curve(ax: Axes, bins: pd.DataFrame, i: int, label: str) -> None:
    """One model: a point per bin with its interval."""
    bins = bins.sort_values("predicted")
    observed = bins["observed"].to_numpy()
    error = np.abs(np.stack([observed - bins["low"], bins["high"] - observed]))
    look: _style.Look = {"color": _style.PALETTE[i], "marker": _MARKERS[i]}
    look |= {"markersize": 3.5, "linewidth": 0.9, "elinewidth": 0.7, "label": label}
    ax.errorbar(bins["predicted"], observed, yerr=error, **look)


def _label(adata: AnnData, model: str, key: str) -> str:
    """Name of a model with its calibration error and Brier score, as far as computed."""
    summary = get.evaluation(adata, key=key, model=model).set_index("metric")["estimate"]
    values = [
        f"{word} {'undefined' if np.isnan(summary[metric]) else f'{summary[metric]:.3f}'}"
        for metric, word in (("ece", "ECE"), ("brier", "Brier"))
        if metric in summary
    ]
    return ": ".join(filter(None, [_style.middle_cut(model), ", ".join(values)]))


def _histogram(ax: Axes, probabilities: pd.Series, i: int) -> None:
    """Share of one model's predictions by probability of the last class, over all repeats."""
    n, _ = np.histogram(probabilities, _BARS)
    ax.stairs(100 * n / n.sum(), _BARS, color=_style.PALETTE[i], linewidth=0.9)
    ax.set_ylabel("share, %")
