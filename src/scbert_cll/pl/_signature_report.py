"""Plots of tl.signature_report: its gates on one card, faithfulness and stability of the genes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record
from scbert_cll._checks.words import choice
from scbert_cll._signature.report.criteria import INFORMATION, NO, NOT_RUN, YES, short
from scbert_cll.pl import _style
from scbert_cll.pl._style import BLUE, GREY, LIGHT, ORANGE, RED, SMALL

# verdict: symbol, colour, and how it is called; told apart without colour, too
_VERDICTS: Final = {
    YES: ("✓", BLUE, "passed"),
    NO: ("✗", RED, "not passed"),
    NOT_RUN: ("–", GREY, "not run"),
    INFORMATION: ("i", GREY, "no rule"),
}
_SUBJECTS: Final = {
    "signature": (BLUE, "o"),
    "attention": (RED, "s"),
    "abundance": (ORANGE, "^"),
}
_WAYS: Final = {"insertion": "with these genes only", "deletion": "without these genes"}
_WHO: Final = {"linear": "logistic regression of all genes", "network": "the network"}
_VERB: Final = "tl.signature_report"
_RUNS = ("labels as they are, 95 %", "labels permuted", "95 % of these")
_HEIGHT: Final = 0.22  # rows, between an index and those of permuted labels


@_style.plot
def signature_report(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the gates of a signature and those of plain rankings.

    A row per gate, a column per subject: a mark for passed or not, the number, and in grey what it
    is where nothing is: with random genes or permuted labels, or by chance.

    Parameters
    ----------
    %(adata_after tl.signature_report)s
    %(key tl.signature_report)s
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such report.
    """
    table = _record.read(adata, key, _VERB, ["gates"])["gates"]
    names, subjects = (list(table[column].unique()) for column in ("gate", "subject"))
    size = (1.9 + 1.15 * len(subjects), 0.8 + 0.27 * len(names))
    [ax] = _style.panels(ax, figsize, size)
    for row in table.to_dict("records"):
        _cell(ax, subjects.index(row["subject"]), names.index(row["gate"]), row)
    ax.set(xlim=(-0.5, len(subjects) - 0.5), ylim=(len(names) - 0.5, -0.5))
    ax.set_xticks(range(len(subjects)), subjects)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color=LIGHT, linewidth=0.5, zorder=0)
    given = set(table["passed"])
    verdicts = [verdict for word, verdict in _VERDICTS.items() if word in given]
    marks = [f"{symbol} {meaning}" for symbol, _, meaning in verdicts]
    ax.set_xlabel("   ".join([*marks, "grey: null"]), fontsize=SMALL)
    return ax


def _part(adata: AnnData, key: str, name: str) -> pd.DataFrame:
    """A table of the report that may be missing."""
    remedy = "Its gates say why it was not run."
    return pd.DataFrame(_record.read(adata, key, _VERB, [name], missing=remedy)[name])


def _cell(ax: Axes, x: int, y: int, row: dict[Any, Any]) -> None:
    """Mark, number and null of one gate."""
    symbol, color, _ = _VERDICTS[row["passed"]]
    ax.scatter(x - 0.38, y, s=70, color=color, alpha=0.18, linewidths=0)
    ax.text(x - 0.38, y, symbol, color=color, weight="bold", va="center", ha="center")
    if row["passed"] == NOT_RUN or not np.isfinite(row["value"]):
        return
    ax.text(x - 0.24, y, short(row["value"], row["gate"]), va="center", fontsize=7)
    if np.isfinite(row["null"]):
        text = short(row["null"], row["gate"])
        ax.text(x + 0.46, y, text, va="center", ha="right", fontsize=SMALL, color=GREY)


@_style.plot
def faithfulness(
    adata: AnnData,
    *,
    reader: str = "linear",
    direction: str | None = None,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how well the first genes of each ranking tell cells of held-out donors apart.

    Cells are read with these genes only, and without them. The genes that matter bring the curve up
    early when they come, and down early when they go. The grey band are random genes that are
    expressed as much as those of the signature (90 % of the sets).

    Parameters
    ----------
    %(adata_after tl.signature_report)s
    reader
        Who tells the cells apart: ``"linear"`` or ``"network"``.
    direction
        ``"insertion"`` or ``"deletion"``. By default both.
    %(key tl.signature_report)s
    %(figsize)s
    %(ax_of_one direction)s
    %(show)s

    Returns
    -------
    The axes (a list if both directions are drawn), None if the figure is shown, or the figure.

    Raises
    ------
    KeyError
        There is no such report, or it has no curves.
    ValueError
        An unknown direction, a reader that was not asked, or `ax` for both directions.
    """
    table = _part(adata, key, "curves")
    choice(reader, list(dict.fromkeys(table["reader"])), "reader")
    ways = list(_WAYS)
    if direction is not None:
        ways = [choice(direction, ways, "direction")]
    new, size, n = ax is None, (1 + 2.5 * len(ways), 2.7), len(ways)
    of = ("direction", "direction")
    axes = _style.panels(ax, figsize, size, n, of, n_columns=2, sharey=True)
    table = table[table["reader"] == reader]
    for panel, way in zip(axes, ways, strict=True):
        _curves(panel, table[table["direction"] == way])
        panel.set(title=_WAYS[way], xlabel="genes")
    axes[0].set_ylabel("AUROC in held-out donors")
    _style.legend(axes[:1], new=new, inside=7, ncols=len(_style.labelled(axes)))
    if new:
        _style.figure_of(axes[0]).suptitle(f"Read by {_WHO[reader]}", fontsize=8)
    return axes


def _curves(ax: Axes, rows: pd.DataFrame) -> None:
    """A line per subject, over the numbers of genes evenly spaced; a band for random genes."""
    steps, rows = np.sort(rows["k"].unique()), rows.sort_values("k")
    rows = rows.assign(x=np.searchsorted(steps, rows["k"]))
    random = rows[rows["subject"] == "random"]
    band = random["x"], random["low"], random["high"]
    ax.fill_between(*band, color=LIGHT, lw=0, label="random genes")
    ax.plot(random["x"], random["value"], color=GREY, lw=1)
    for name, (color, marker) in _SUBJECTS.items():
        if len(curve := rows[rows["subject"] == name]):
            x, y = curve["x"], curve["value"]
            ax.plot(x, y, color=color, marker=marker, ms=3.5, lw=1, label=name)
    ax.axhline(0.5, color=GREY, lw=0.7, ls=":")
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])


@_style.plot
def stability(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how alike the genes are that come out without single donors.

    The same under permuted labels is drawn below. Nogueira's index: 1 if they are always the same,
    0 by chance. What is as stable where labels mean nothing says nothing of the labels, however
    stable it is.

    Parameters
    ----------
    %(adata_after tl.signature_report)s
    %(key tl.signature_report)s
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such report, or stability was not looked at.
    """
    table = _part(adata, key, "stability")
    names = list(dict.fromkeys(table["subject"]))
    [ax] = _style.panels(ax, figsize, (3.5, 1.5 + 0.35 * len(names)))
    for y, name in enumerate(names):
        _index(ax, y, table[table["subject"] == name])
    _style.name_rows(ax, names)
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    ax.set_xlabel("Nogueira's index, without one donor at a time")
    lines = _style.labelled([ax])
    texts = [text for text in _RUNS if text in lines]
    handles = [lines[text] for text in texts]
    ax.legend(handles, texts, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return ax


def _index(ax: Axes, y: int, runs: pd.DataFrame) -> None:
    """One subject: the index with its limits above, and those of the permuted labels below."""
    of_labels, of_null, at_95 = _RUNS
    actual = runs[runs["run"] == 0].iloc[0]
    null = runs.loc[runs["run"] > 0, "nogueira"].dropna()
    index = actual["nogueira"]
    error = np.abs([[index - actual["low"]], [actual["high"] - index]])
    above, below = y - _HEIGHT / 2, np.full(len(null), y + _HEIGHT / 2)
    ax.errorbar(index, above, xerr=error, fmt="o", color=BLUE, ms=4, label=of_labels)
    ax.scatter(null, below, s=6, color=GREY, alpha=0.5, linewidths=0, label=of_null)
    if len(null):
        x = [null.quantile(0.95)] * 2
        ax.plot(x, [y, y + _HEIGHT], color=RED, lw=1.2, label=at_95)
