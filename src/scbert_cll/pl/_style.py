"""What the plots share: colours, sizes, panels, texts, and what happens to a finished figure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from scbert_cll import _docs

Drawn = Axes | list[Axes] | Figure | None
type Look = dict[str, Any]  # keyword arguments of matplotlib's

# Okabe & Ito's colours, told apart with any colour vision; black and yellow left out, as one is
# text and the other faint
PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = PALETTE
GREY, LIGHT = "#6B6B6B", "#C8C8C8"
SMALL: Final = 6  # points, the smallest text
WHITE: Final[Look] = {"facecolor": "white", "edgecolor": "none"}  # behind a text

# Backends that write files and have nothing to show
_FILE_BACKENDS: Final = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}

# Legible in print at column width; the user's own settings are left as they are.
_RC: Final[dict[Any, Any]] = {
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
}


def styled[**P, R](plot: Callable[P, R]) -> Callable[P, R]:
    """Draw with the package's sizes, whatever `rcParams` say, and leave those as they were."""

    @wraps(plot)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_RC):
            return plot(*args, **kwargs)

    return inside


def plot[**P](drawing: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """A plot: sizes of the package, shared entries in its docstring, and the usual finish.

    It returns axes, or a list of them, of which one alone is taken out. Like scanpy, the caller
    gets the figure if asked for (`return_fig`), None if it is shown, else the axes. `show=None`
    shows where scanpy would and a window or a notebook is there to show it.
    """

    @wraps(drawing)
    @styled
    def inside(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        drawn = cast("Axes | list[Axes]", drawing(*args, **kwargs))
        axes = [drawn] if isinstance(drawn, Axes) else drawn
        for ax in axes:
            _tidy(ax)
        if kwargs.get("return_fig"):
            return figure_of(axes[0])
        show = kwargs.get("show")
        if show is None:
            show = _autoshow() and mpl.get_backend().lower() not in _FILE_BACKENDS
        if show:
            plt.show()
            return None
        return axes[0] if len(axes) == 1 else axes

    return _docs.shared(inside)


def panels(
    ax: Axes | None,
    figsize: tuple[float, float] | None,
    size: tuple[float, float],
    n: int = 1,
    of: tuple[str, str] = ("", ""),
    *,
    n_columns: int = 1,
    **kwargs: Any,
) -> list[Axes]:
    """The user's axes, which hold one panel, or `n` in the rows of a new figure.

    Of `size` unless the user says otherwise; labels make room for themselves. `of` is what a panel
    shows, and the argument that names one.
    """
    if ax is not None:
        if n > 1:
            what, argument = of
            raise ValueError(
                f"ax holds one {what}, there are {n}; name one with {argument}=, or leave ax out."
            )
        figure_of(ax)
        return [ax]
    n_columns = min(n, n_columns)
    fig = plt.figure(figsize=figsize or size, layout="constrained")
    grid = fig.subplots(-(-n // n_columns), n_columns, squeeze=False, **kwargs)
    axes: list[Axes] = list(grid.ravel())
    for empty in axes[n:]:
        empty.remove()
    return axes[:n]


def figure_of(ax: Axes) -> Figure:
    """The figure that axes stand in, also if in a part of it."""
    fig: Figure | SubFigure | None = ax.figure
    while isinstance(fig, SubFigure):
        fig = fig.figure
    if fig is None:
        raise ValueError(
            "ax belongs to no figure any more; make new ones: fig, ax = plt.subplots()."
        )
    return fig


def _tidy(ax: Axes) -> None:
    """Give axes that were made outside, with other sizes, the look of our own."""
    ax.tick_params(labelsize=_RC["xtick.labelsize"])
    ax.spines[["top", "right"]].set_visible(False)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(min(label.get_fontsize(), _RC["axes.labelsize"]))


def _autoshow() -> bool:
    import scanpy as sc  # seconds to import, and needed only here

    return bool(sc.settings.autoshow)


def width(ax: Axes) -> float:
    """Inches of axes, as laid out so far."""
    return float(ax.get_window_extent().width / figure_of(ax).dpi)


def lay_out(ax: Axes) -> None:
    """Give axes and texts their final places; only then widths are known."""
    figure_of(ax).draw_without_rendering()


def labelled(axes: Sequence[Axes]) -> dict[str, Artist]:
    """What a legend explains, by label."""
    pairs = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes)
    return {str(label): handle for part in pairs for handle, label in part}


def legend(
    axes: Sequence[Axes],
    *,
    new: bool,
    inside: float = SMALL,
    order: Callable[[str], int] = lambda _: 0,
    **look: Any,
) -> None:
    """One legend for all panels, under or over those of our own figure, else in the user's axes."""
    handles = labelled(axes)
    labels = sorted(handles, key=order)
    lines = [handles[label] for label in labels]
    if new:
        look = {"loc": "outside lower center"} | look
        figure_of(axes[0]).legend(lines, labels, **look)
    else:
        axes[0].legend(lines, labels, fontsize=inside)


def bar(axes: Axes | list[Axes], image: AxesImage, label: str, **look: Any) -> Colorbar:
    """A colour bar without a frame."""
    first = axes if isinstance(axes, Axes) else axes[0]
    drawn = figure_of(first).colorbar(image, ax=axes, **look)
    drawn.set_label(label, fontsize=7)
    drawn.ax.tick_params(labelsize=SMALL, length=2)
    drawn.outline.set_visible(False)
    return drawn


def heatmap(ax: Axes, data: np.ndarray, cmap: str, low: float, high: float) -> AxesImage:
    """Values as colours, one field each."""
    look: Look = {"aspect": "auto", "interpolation": "none"}
    return ax.imshow(data, cmap, vmin=low, vmax=high, **look)


def note(
    ax: Axes, text: str, at: tuple[float, float], off: tuple[float, float], **look: Any
) -> Text:
    """A small text some points off a place in the axes, in fractions of these by default."""
    usual: Look = {"xycoords": "axes fraction", "textcoords": "offset points"}
    usual |= {"fontsize": SMALL, "annotation_clip": False}
    return ax.annotate(text, at, off, **(usual | look))


def in_row(ax: Axes, x: float, row: float, text: str, **look: Any) -> Text:
    """A small grey text in a row, `x` as a share of the axes' width."""
    usual: Look = {"va": "center", "fontsize": SMALL, "color": GREY}
    return ax.text(x, row, text, transform=ax.get_yaxis_transform(), **(usual | look))


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names of the rows, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def engineering(largest: float) -> tuple[float, str]:
    """Factor and unit that bring shares to numbers from 1: (1e3, '10⁻³')."""
    if not np.isfinite(largest) or largest <= 0:
        return 1.0, ""
    power = int(np.ceil(max(0.0, -np.log10(largest)) / 3) * 3)
    return 10.0**power, f"10{raised(-power)}" if power else ""


def raised(power: int) -> str:
    """A power as it is written after ten."""
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def shortened(name: str, longest: int = 22) -> str:
    """A name that fits next to an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def middle_cut(name: str, longest: int = 22) -> str:
    """A name cut in its middle: variants of a model differ at the end."""
    left = longest // 2
    cut = f"{name[:left]}…{name[left + 1 - longest :]}"
    return name if len(name) <= longest else cut


def broken(text: str, n_characters: float) -> str:
    """Lines of at most so many characters."""
    n = max(18, int(n_characters))
    return "\n".join("\n".join(textwrap.wrap(line, n)) for line in text.split("\n"))
