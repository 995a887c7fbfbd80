"""What the plots share: colours, sizes, and what happens to a finished figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from scbert_cll import _docs

Drawn = Axes | list[Axes] | Figure | None

# Okabe & Ito's colours, told apart with any colour vision; black and yellow left out, as one is
# text and the other faint
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
)
PALETTE: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
GREY, LIGHT = "#6B6B6B", "#C8C8C8"

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


def plot[**P, R](drawing: Callable[P, R]) -> Callable[P, R]:
    """A plot of the package: its sizes, and whole entries in its docstring."""
    return _docs.shared(styled(drawing))


def panels(
    n: int, *, n_columns: int, figsize: tuple[float, float], **kwargs: Any
) -> tuple[Figure, list[Axes]]:
    """A new figure with `n` axes in rows; labels make room for themselves."""
    n_columns = min(n, n_columns)
    fig, grid = plt.subplots(
        -(-n // n_columns),
        n_columns,
        figsize=figsize,
        squeeze=False,
        layout="constrained",
        **kwargs,
    )
    axes: list[Axes] = list(grid.ravel())
    for ax in axes[n:]:
        ax.remove()
    return fig, axes[:n]


def one(ax: Axes | None, figsize: tuple[float, float]) -> tuple[Figure, Axes]:
    """The user's axes, or new ones."""
    if ax is not None:
        return figure_of(ax), ax
    fig, axes = panels(1, n_columns=1, figsize=figsize)
    return fig, axes[0]


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


def finish(
    fig: Figure, drawn: Axes | Sequence[Axes], *, show: bool | None, return_fig: bool
) -> Drawn:
    """As scanpy: the figure if asked for, None if shown, else the axes.

    `show=None` shows where scanpy would and a window or a notebook is there to show it.
    """
    for ax in [drawn] if isinstance(drawn, Axes) else drawn:
        _tidy(ax)
    if return_fig:
        return fig
    if show is None:
        show = _autoshow() and mpl.get_backend().lower() not in _FILE_BACKENDS
    if show:
        plt.show()
        return None
    return drawn if isinstance(drawn, Axes) else list(drawn)


def _tidy(ax: Axes) -> None:
    """Give axes that were made outside, with other sizes, the look of our own."""
    ax.tick_params(labelsize=_RC["xtick.labelsize"])
    ax.spines[["top", "right"]].set_visible(False)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(min(label.get_fontsize(), _RC["axes.labelsize"]))


def _autoshow() -> bool:
    import scanpy as sc  # seconds to import, and needed only here

    return bool(sc.settings.autoshow)


def engineering(largest: float) -> tuple[float, str]:
    """Factor and unit that bring shares to numbers from 1: (1e3, '10⁻³')."""
    if not np.isfinite(largest) or largest <= 0:
        return 1.0, ""
    power = int(np.ceil(max(0.0, -np.log10(largest)) / 3) * 3)
    return (
        10.0**power,
        f"10{str(-power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}" if power else "",
    )


def shortened(name: str, longest: int = 22) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
