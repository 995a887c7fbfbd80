"""Rows of a mean, its interval and the single donors, with columns of text beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scbert_cll.pl import _style

ROW: Final = 0.15  # inches
FAINT: Final = "#A0A0A0"
SMALL: Final = 6  # points, of text beside a row
_CHARACTER: Final = 0.6  # of the font's size, mean width
_NAME: Final = 7  # points, of a row's name
_LEAST_AXES: Final = 54  # points
_SHORTEST: Final = 12  # characters of a name
_GAP: Final = 7  # points between columns
ABOVE: Final = 0.08  # rows, of a mean over the row's middle, where donors are under it
_BELOW: Final = 0.27  # rows, of donors under their mean
_TITLE_CHARACTERS: Final = 17  # of 8 points in an inch
_CAPTION_CHARACTERS: Final = 18  # of 7 points
_UNKNOWN: Final = "–"
_LEAST: Final = -300  # power of ten below which a double is hardly more than zero


def interval(
    ax: Axes, row: float, mean: float, low: float, high: float, *, color: str, hollow: bool = False
) -> None:
    """A row's mean and interval."""
    y = row - ABOVE
    ax.hlines(y, low, high, color=color, linewidth=1.3, zorder=3)
    ax.scatter(
        mean,
        y,
        s=14,
        facecolor="white" if hollow else color,
        edgecolor=color,
        linewidth=1,
        zorder=4,
    )


def donors(ax: Axes, row: int, values: np.ndarray, *, color: str) -> None:
    """A dot per donor, under the mean."""
    known = values[np.isfinite(values)]
    ax.scatter(
        known,
        np.full(len(known), row + _BELOW),
        s=4,
        color=color,
        alpha=0.55,
        linewidths=0,
        zorder=2,
    )


def frame(ax: Axes, names: Sequence[str], *, longest: int = 20) -> None:
    """Names of the rows, the first on top, and the line of no change."""
    ax.set_yticks(range(len(names)), [_style.shortened(name, longest) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color=_style.GREY, linewidth=0.7, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.margins(x=0.08)
    for row in range(1, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, facecolor="black", alpha=0.035, linewidth=0, zorder=0)


def columns(ax: Axes, texts: Mapping[str, Sequence[str]]) -> None:
    """Columns of text to the right of the rows, each under its header."""
    offset = float(_GAP)
    for header, cells in texts.items():
        width = _width(header, cells)
        place: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "fontsize": SMALL,
            "annotation_clip": False,
        }
        for row, text in enumerate(cells):
            ax.annotate(
                text,
                (1, row),
                (offset + width / 2, 0),
                xycoords=ax.get_yaxis_transform(),
                va="center",
                **place,
            )
        ax.annotate(
            header, (1, 1), (offset + width / 2, 2), xycoords="axes fraction", va="bottom", **place
        ).set(color=_style.GREY, linespacing=0.95)
        offset += width + _GAP


def _width(header: str, cells: Sequence[str]) -> float:
    """Points that a column takes."""
    return _CHARACTER * SMALL * max(len(text) for text in (*header.split("\n"), *cells))


def longest_name(ax: Axes, texts: Mapping[str, Sequence[str]], *, own: bool, most: int = 24) -> int:
    """Characters of a row's name that leave room for the columns and for axes, in a figure of our own or in the user's axes."""
    fig = _style.figure_of(ax)
    room = 72 * (fig.get_figwidth() if own else ax.get_window_extent().width / fig.dpi)
    taken = _LEAST_AXES + sum(_width(header, cells) + _GAP for header, cells in texts.items())
    return int(np.clip((room - taken) / (_CHARACTER * _NAME), _SHORTEST, most))


def captions(fig: Figure, ax: Axes | None, title: str, caption: str) -> None:
    """Title and caption of a whole figure, or of the user's axes.

    In those the caption goes under the axis label.
    """
    if ax is None:
        room = fig.get_figwidth()
        fig.suptitle(broken(title, room * _TITLE_CHARACTERS), fontsize=8)
        if caption:
            fig.supxlabel(
                broken(caption, room * _CAPTION_CHARACTERS), fontsize=7, color=_style.GREY
            )
        return
    fig.draw_without_rendering()  # lays the texts beside the rows out; only now the width is known
    room = ax.get_window_extent().width / fig.dpi
    ax.set_title(broken(title, room * _TITLE_CHARACTERS), pad=16)
    if caption:
        ax.set_xlabel(
            "\n".join([ax.get_xlabel(), broken(caption, room * _CAPTION_CHARACTERS)]), fontsize=7
        )


def words_instead(ax: Axes, text: str) -> None:
    """Say in empty axes why nothing is drawn."""
    ax.set_axis_off()
    room = ax.get_window_extent().width / _style.figure_of(ax).dpi
    ax.text(
        0.5,
        0.5,
        broken(text, room * 15),
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=8,
    )


def number(value: float) -> str:
    """A share of errors in few characters, never rounded up to 0.05."""
    if not np.isfinite(value):
        return _UNKNOWN
    if value >= 0.0995:
        return f"{value:.2f}"
    if value >= 0.00095:
        return f"{value:.3f}"
    if value < 10.0**_LEAST:
        return f"<10{_raised(_LEAST)}"
    power = int(np.floor(np.log10(value)))
    mantissa = round(value / 10.0**power)
    mantissa, power = (1, power + 1) if mantissa == 10 else (mantissa, power)
    return f"{mantissa}×10{_raised(power)}"


def p_value(p: float) -> str:
    """'p = 0.03', or that it is smaller than can be said."""
    said = number(p)
    return f"p {said.replace('<', '< ')}" if said.startswith("<") else f"p = {said}"


def ratio(value: float) -> str:
    """A hazard or odds ratio in few characters."""
    if not np.isfinite(value):
        return _UNKNOWN
    if value > 999:
        return ">999"
    return (
        "<0.01"
        if value < 0.005
        else f"{value:.2f}"
        if value < 9.995
        else f"{value:.1f}"
        if value < 99.95
        else f"{value:.0f}"
    )


def with_interval(value: float, low: float, high: float) -> str:
    """A ratio and its 95 % interval."""
    return f"{ratio(value)} ({ratio(low)}–{ratio(high)})" if np.isfinite(value) else _UNKNOWN


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−") if np.isfinite(value) else _UNKNOWN


def broken(text: str, n_characters: float) -> str:
    """Lines of at most so many characters."""
    n = max(18, int(n_characters))
    return "\n".join("\n".join(textwrap.wrap(line, n)) for line in text.split("\n"))
