"""Rows of a mean, its interval and the single donors, with columns of text next to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scbert_cll.pl import _style

type Texts = dict[str, list[str]]  # of the rows, by header of the column

ROW: Final = 0.15  # inches
FAINT: Final = "#A0A0A0"
ABOVE: Final = 0.08  # rows, of a mean over the row's middle, where donors are under it
_BELOW: Final = 0.27  # rows, of donors under their mean
_CHARACTER: Final = 0.6  # of the font's size, mean width
_NAME: Final = 7  # points, of a row's name
_LEAST_AXES: Final = 54  # points
_SHORTEST, _LONGEST = 12, 24  # characters of a name
_GAP: Final = 7  # points between columns
_TITLE_CHARACTERS: Final = 16  # of 8 points in an inch
_CAPTION_CHARACTERS: Final = 18  # of 7 points
_UNKNOWN: Final = "–"
_LEAST: Final = -300  # power of ten below which a double is hardly more than zero


def interval(
    ax: Axes, row: float, *numbers: float, color: str, hollow: bool, mark: str = "o"
) -> None:
    """A row's mean, and the lower and upper limit of its interval; thin with another mark."""
    mean, low, high = numbers
    y, face, scale = row - ABOVE, "white" if hollow else color, 1.0 if mark == "o" else 0.6
    ax.hlines(y, low, high, color=color, linewidth=1.3 * scale, zorder=3)
    look: _style.Look = {"facecolor": face, "edgecolor": color, "linewidth": scale, "zorder": 4}
    ax.scatter(mean, y, s=14 * scale, marker=mark, **look)


def donors(ax: Axes, row: int, values: Iterable[float]) -> None:
    """A dot per donor, under the mean."""
    x = [value for value in values if np.isfinite(value)]
    y = np.full(len(x), row + _BELOW)
    ax.scatter(x, y, s=4, color=_style.GREY, alpha=0.55, linewidths=0, zorder=2)


def frame(ax: Axes, names: Sequence[str], *, longest: int = 20) -> None:
    """Names of the rows, the first on top, and the line of no change."""
    _style.name_rows(ax, [_style.shortened(name, longest) for name in names])
    ax.axvline(0, color=_style.GREY, linewidth=0.7, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.margins(x=0.08)
    for row in range(1, len(names), 2):
        stripe(ax, row)


def stripe(ax: Axes, row: float, color: str = "black", alpha: float = 0.035) -> None:
    """A coloured row."""
    ax.axhspan(row - 0.5, row + 0.5, facecolor=color, alpha=alpha, lw=0, zorder=0)


def columns(ax: Axes, texts: Texts) -> None:
    """Columns of text to the right of the rows, each under its header."""
    offset = float(_GAP)
    for header, cells in texts.items():
        wide = _width(header, cells)
        middle = offset + wide / 2
        for row, text in enumerate(cells):
            at_row: _style.Look = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
            _style.note(ax, text, (1, row), (middle, 0), ha="center", **at_row)
        head = _style.note(ax, header, (1, 1), (middle, 2), ha="center", va="bottom")
        head.set(color=_style.GREY, linespacing=0.95)
        offset += wide + _GAP


def _width(header: str, cells: Sequence[str]) -> float:
    """Points that a column takes."""
    return _CHARACTER * _style.SMALL * max(map(len, [*header.split("\n"), *cells]))


def longest_name(ax: Axes, texts: Texts, *, new: bool) -> int:
    """Characters of a row's name that leave room for the columns and for axes."""
    room = 72 * (_style.figure_of(ax).get_figwidth() if new else _style.width(ax))
    widths = [_width(header, cells) + _GAP for header, cells in texts.items()]
    left = room - (_LEAST_AXES + sum(widths))
    return int(np.clip(left / (_CHARACTER * _NAME), _SHORTEST, _LONGEST))


def captions(ax: Axes, title: str, caption: str = "", *, new: bool) -> None:
    """Title and caption of our own figure, or of the user's axes, there under the axis label."""
    fig = _style.figure_of(ax)
    if not new:
        _style.lay_out(ax)  # with the texts next to the rows
    room = fig.get_figwidth() if new else _style.width(ax)
    title = _style.broken(title, room * _TITLE_CHARACTERS)
    caption = _style.broken(caption, room * _CAPTION_CHARACTERS)
    if new:
        fig.suptitle(title, fontsize=8)
    else:
        ax.set_title(title, pad=16)
    if caption and new:
        fig.supxlabel(caption, fontsize=7, color=_style.GREY)
    elif caption:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{caption}", fontsize=7)


def words_instead(ax: Axes, text: str) -> None:
    """Say in empty axes why nothing is drawn."""
    ax.set_axis_off()
    middle: _style.Look = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    ax.text(0.5, 0.5, _style.broken(text, _style.width(ax) * 15), fontsize=8, **middle)


def number(value: float) -> str:
    """A share of errors in few characters, never rounded up to 0.05."""
    if not np.isfinite(value):
        return _UNKNOWN
    if value >= 0.0995:
        return f"{value:.2f}"
    if value >= 0.00095:
        return f"{value:.3f}"
    if value < 10.0**_LEAST:
        return f"<10{_style.raised(_LEAST)}"
    power = int(np.floor(np.log10(value)))
    mantissa = round(value / 10.0**power)
    mantissa, power = (1, power + 1) if mantissa == 10 else (mantissa, power)
    return f"{mantissa}×10{_style.raised(power)}"


def p_value(p: float) -> str:
    """'p = 0.03', or that it is smaller than can be said."""
    text = number(p)
    return f"p {text.replace('<', '< ')}" if text.startswith("<") else f"p = {text}"


def ratio(value: float) -> str:
    """A hazard or odds ratio in few characters."""
    if not np.isfinite(value):
        return _UNKNOWN
    if value > 999:
        return ">999"
    if value < 0.005:
        return "<0.01"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A ratio and its 95 % interval."""
    if not np.isfinite(value):
        return _UNKNOWN
    return f"{ratio(value)} ({ratio(low)}–{ratio(high)})"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−") if np.isfinite(value) else _UNKNOWN
