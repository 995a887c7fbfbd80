"""The figure of `engine.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from scbert_cll.pl._style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, styled

mpl.use("agg")
Row = dict[str, Any]
SPEED = {
    "forward, ours in bfloat16": (SKY, "s", "forward, ours bfloat16"),
    "forward, float32": (BLUE, "o", "forward, float32"),
    "training step, float32": (ORANGE, "^", "training step"),
    "training step, ours recomputing": (RED, "v", "training step, recomputing"),
}
MEMORY = {
    "training step, float32": (ORANGE, "^", "training step"),
    "training step, ours recomputing": (RED, "v", "training step, recomputing"),
    "forward, float32": (BLUE, "o", "forward"),
}


@styled
def draw(report: dict[str, Any], path: Path) -> None:
    """Speed and memory beside performer-pytorch, gene attention beside the dense way, and which
    genes attend.
    """
    fig, axes = plt.subplots(2, 2, figsize=(7, 6.2), layout="constrained")
    panels: tuple[Callable[[Axes, list[Row]], None], ...] = (_speed, _memory, _attention, _modes)
    for ax, letter, panel in zip(axes.flat, "abcd", panels, strict=True):
        panel(ax, report["rows"])
        ax.text(-0.13, 1.02, letter, transform=ax.transAxes, fontweight="bold", fontsize=10)
    fig.savefig(path, dpi=200)
    plt.close(fig)


def _speed(ax: Axes, rows: list[Row]) -> None:
    for what, (colour, marker, label) in SPEED.items():
        found = _of(rows, "time", what)
        x = [row["tokens"] for row in found]
        low, middle, high = (
            [row["ratio"][part] for row in found] for part in ("min", "median", "max")
        )
        _line(ax, x, middle, colour, marker, label)
        ax.vlines(x, low, high, color=colour, lw=1.2)
    ax.axhline(1, color=GREY, lw=0.8, ls=":")
    log_axes(ax, x=_tokens(rows, "time"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 5, 6, 8)))
    ax.set(xlabel="tokens", ylabel="times faster than performer-pytorch")
    _legend(ax)


def _memory(ax: Axes, rows: list[Row]) -> None:
    for what, (colour, marker, label) in MEMORY.items():
        found = _of(rows, "memory", what)
        x = [row["tokens"] for row in found]
        if "recomputing" not in what:
            beside = [row["beside"]["median"] / 1e6 for row in found]
            _line(ax, x, beside, colour, marker, f"{label}, performer-pytorch", theirs=True)
        _line(ax, x, [row["ours"]["median"] / 1e6 for row in found], colour, marker, label)
    log_axes(ax, x=_tokens(rows, "memory"))
    ax.set(xlabel="tokens", ylabel="peak memory (MB)")
    _legend(ax)


def _attention(ax: Axes, rows: list[Row]) -> None:
    found = _of(rows, "attention time", "one layer")
    x = [row["tokens"] for row in found]
    _line(
        ax,
        x,
        [row["beside"]["median"] for row in found],
        GREY,
        "s",
        "dense matrix, a head at a time",
        theirs=True,
    )
    _line(ax, x, [row["ours"]["median"] for row in found], BLUE, "o", "scbert_cll")
    for row in found:
        _note(
            ax,
            f"{row['ratio']['median']:.1f}×",
            (row["tokens"], row["beside"]["median"]),
            (0, 6),
            ha="center",
        )
    log_axes(ax, x=x)
    ax.margins(x=0.1, y=0.15)
    ax.set(xlabel="tokens", ylabel="gene attention of a layer (s)")
    _legend(ax)


def _modes(ax: Axes, rows: list[Row]) -> None:
    for row in _of(rows, "modes"):
        if row["error"] is None:
            continue
        colour = PURPLE if row["what"].startswith("expressed") else GREEN
        place = (row["ours"]["median"], 100 * row["error"]["median"])
        ax.plot(*place, "o", ms=5, color=colour)
        label = f"{row['what']}: {row['ratio']['median']:.1f}×"
        _note(ax, label, place, (6, -7) if row["what"] == "expressed" else (6, 3))
    whole = _of(rows, "modes", "all")[0]["ours"]["median"]
    ax.axvline(whole, color=GREY, lw=0.8, ls=":")
    _note(
        ax,
        "all genes, no error",
        (whole, 0.5),
        (-3, 0),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="right",
        va="center",
    )
    log_axes(ax)
    ax.margins(x=0.1, y=0.15)
    ax.set(xlabel="seconds per cell", ylabel="error of encodings (%)")


def _of(rows: list[Row], table: str, what: str | None = None) -> list[Row]:
    return [row for row in rows if row["table"] == table and what in (None, row["what"])]


def _tokens(rows: list[Row], table: str) -> list[int]:
    return sorted({row["tokens"] for row in _of(rows, table)})


def _line(
    ax: Axes,
    x: list[int],
    y: list[float],
    colour: str,
    marker: str,
    label: str,
    *,
    theirs: bool = False,
) -> None:
    """Ours solid and filled, theirs dashed and hollow."""
    look = {"ls": "--", "mfc": "white"} if theirs else {}
    ax.plot(x, y, color=colour, marker=marker, ms=4, lw=1.2, label=label, **look)


def _note(
    ax: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], **how: Any
) -> None:
    ax.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=7, **how)


def _legend(ax: Axes) -> None:
    """Above the panel, where it hides no line."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def log_axes(ax: Axes, x: list[int] | None = None) -> None:
    """Logarithmic axes with plain numbers."""
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        )
        axis.set_minor_formatter(NullFormatter())
    if x is not None:
        ax.xaxis.set_major_locator(FixedLocator(x))
        ax.xaxis.set_minor_locator(NullLocator())
