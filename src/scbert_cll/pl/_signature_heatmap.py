"""pl.signature_heatmap: the genes of a signature in every donor and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in
from scbert_cll.pl import _rows, _style
from scbert_cll.pl._signature import BETWEEN, found, instead, paired, rows, title

OrderBy = Literal["class", "donor"]

# beside red and blue, which are the values
_CLASSES: Final = (_style.SKY, _style.ORANGE, _style.GREEN, _style.PURPLE)
_ROW: Final = 0.13  # inches
_STRIP, _TOP = (
    0.7,
    -1.4,
)  # rows: height of the classes' strip above the heatmap, and where it starts
_NAME: Final = 7.6  # points, for the name of a donor
_NARROW: Final = 4.0  # inches, of axes that have no room for a colour bar beside them
_CLIPPED: Final = 99  # per cent of the values within the colours


@_style.plot
def signature_heatmap(
    adata: AnnData,
    *,
    n_genes: int = 20,
    genes: str | Sequence[str] | None = None,
    key: str = _keys.SIGNATURE,
    show_masked: bool = True,
    order_by: OrderBy = "class",
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the expression of a signature's genes in every donor and class.

    A row per gene, from the one that goes up most to the one that goes down most, and a column per
    donor and class: the log2 of the summed counts, less the donor's own mean, so that what is left
    is the class. Without pairs, less the gene's mean. A signature that holds shows the same colours
    in every donor; genes are chosen for that, so the picture is no evidence of its own.

    Parameters
    ----------
    %(adata_after tl.signature)s
    n_genes
        Number of genes per direction at most, the clearest of each.
    genes
        Draw these genes instead, whether they pass or not.
    %(key tl.signature)s
    show_masked
        Draw genes of families that a signature should be read without.
    order_by
        Columns side by side: those of a ``"class"`` or those of a ``"donor"``.
    %(figsize)s
    ax
        Axes to draw in; the colour bar takes a part of their room.
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such result, or one of `genes` was not tested.
    ValueError
        `n_genes` is below 1, or `order_by` is neither.
    """
    choice(order_by, ("class", "donor"), "order_by")
    held = found(adata, key)
    table, left_out = rows(held, n_genes, genes, key, show_masked=show_masked)
    table = table if genes is not None or table.empty else table[table["selected"]]
    size = figsize or (
        _width(len(held["samples"]) if len(table) else 0),
        1.5 + _ROW * max(len(table), 5),
    )
    fig, panel = _style.one(ax, size)
    if table.empty:
        _rows.words_instead(panel, instead(held, left_out))
        return _style.finish(fig, panel, show=show, return_fig=return_fig)
    samples = _columns(held, order_by)
    values = _centred(held, key, list(table["gene"]), samples)
    image = _cells(panel, values, table)
    _strip(panel, samples, [str(name) for name in held["params"]["classes"]], order_by)
    _bar(fig, panel, image, held)
    _donors(panel, samples, order_by)
    panel.spines[:].set_visible(False)
    _rows.captions(fig, ax, title(held, left_out), "" if paired(held) else BETWEEN)
    return _style.finish(fig, panel, show=show, return_fig=return_fig)


def _width(n_samples: int) -> float:
    """Inches: a column's width, and more for many samples."""
    return float(np.clip(2.0 + 0.13 * n_samples, 3.4, 7.0))


def _columns(held: Mapping[str, Any], order_by: OrderBy) -> pd.DataFrame:
    """Donor and class of each column in the order drawn, with its place among those that were written."""
    samples = pd.DataFrame(held["samples"])[["donor", "class"]].astype(str).reset_index(drop=True)
    order = {str(name): i for i, name in enumerate(held["params"]["classes"])}
    samples = samples.assign(
        code=samples["class"].map(order).astype(int), place=range(len(samples))
    )
    by = ["code", "donor"] if order_by == "class" else ["donor", "code"]
    return samples.sort_values(by, kind="stable", ignore_index=True)


def _centred(
    held: Mapping[str, Any], key: str, genes: list[str], samples: pd.DataFrame
) -> np.ndarray:
    """Log2 sums, genes × samples, less the donor's mean or, without pairs, the gene's."""
    key_in("expression", held, f"adata.uns[{key!r}]", "Run tl.signature again.")
    log = (
        pd.DataFrame(held["expression"]).loc[genes].iloc[:, samples["place"]].to_numpy(dtype=float)
    )
    if not paired(held):
        return np.asarray(log - log.mean(axis=1, keepdims=True))
    by_donor = pd.DataFrame(log.T).groupby(samples["donor"].to_numpy())
    return np.asarray(log - by_donor.transform("mean").to_numpy().T)


def _cells(ax: Axes, values: np.ndarray, table: pd.DataFrame) -> AxesImage:
    """The heatmap, with a line between the genes that go up and those that go down."""
    most = float(np.percentile(np.abs(values), _CLIPPED)) or 1.0
    image = ax.imshow(
        values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="none"
    )
    ax.set_yticks(range(len(table)), [_style.shortened(gene) for gene in table["gene"]])
    n_up = int((table["sign"] > 0).sum())
    if 0 < n_up < len(table):
        ax.axhline(n_up - 0.5, color="white", linewidth=2)
    look: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": 7,
        "color": _style.GREY,
        "va": "center",
    }
    for word, first, last in (("up", 0, n_up), ("down", n_up, len(table))):
        if first < last:
            ax.annotate(
                word, (1, (first + last - 1) / 2), (4, 0), xycoords=ax.get_yaxis_transform(), **look
            )
    return image


def _strip(ax: Axes, samples: pd.DataFrame, classes: list[str], order_by: OrderBy) -> None:
    """A colour per class above the columns, explained in a legend.

    Lines between the blocks of columns.
    """
    colors = [_CLASSES[i % len(_CLASSES)] for i in range(len(classes))]
    for i, code in enumerate(samples["code"]):
        ax.add_patch(Rectangle((i - 0.5, _TOP), 1, _STRIP, facecolor=colors[code], linewidth=0))
    ax.set_ylim(top=_TOP)
    block = samples["code" if order_by == "class" else "donor"].to_numpy()
    for last in np.flatnonzero(block[1:] != block[:-1]):
        ax.axvline(last + 0.5, color="white", linewidth=2 if order_by == "class" else 1.2)
    handles = [
        Patch(color=color, label=_style.shortened(name))
        for name, color in zip(classes, colors, strict=True)
    ]
    look: dict[str, Any] = {
        "handlelength": 1,
        "columnspacing": 1.2,
        "borderaxespad": 0.3,
        "borderpad": 0.2,
    }
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), **look)


def _donors(ax: Axes, samples: pd.DataFrame, order_by: OrderBy) -> None:
    """Name the donors below, once each where their columns are side by side, if there is room."""
    ax.tick_params(axis="both", length=0, pad=2)
    names = samples.assign(place=range(len(samples)))
    if order_by == "donor":
        names = names.groupby("donor", sort=False)["place"].mean().reset_index()
    ax.set_xticks([])
    ax.set_xlabel("donor")
    fig = _style.figure_of(ax)
    fig.draw_without_rendering()  # lays the rest out; only now the width is known
    if ax.get_window_extent().width / fig.dpi * 72 < _NAME * len(names):
        ax.set_xlabel(f"{samples['donor'].nunique()} donors")
        return
    ax.set_xticks(
        names["place"], [_style.shortened(name, 12) for name in names["donor"]], rotation=90
    )


def _bar(fig: Figure, ax: Axes, image: AxesImage, held: Mapping[str, Any]) -> None:
    """Colour bar with its unit: at the side or, in a narrow figure, below."""
    narrow = ax.get_window_extent().width / fig.dpi < _NARROW
    place: dict[str, Any] = (
        {"location": "bottom", "aspect": 30} if narrow else {"location": "right", "aspect": 14}
    )
    bar = fig.colorbar(
        image, ax=ax, extend="both", shrink=0.8 if narrow else 0.6, pad=0.03, **place
    )
    bar.set_label(f"log₂ expression − {'donor' if paired(held) else 'gene'}'s mean", fontsize=7)
    bar.locator = MaxNLocator(4)  # more would touch each other
    bar.update_ticks()
    bar.ax.tick_params(labelsize=_rows.SMALL, length=2)
    bar.outline.set_visible(False)
