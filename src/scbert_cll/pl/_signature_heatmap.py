"""pl.signature_heatmap: the expression of a signature's genes in every donor and class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys, _record
from scbert_cll._checks.words import choice
from scbert_cll.pl import _rows, _style
from scbert_cll.pl._signature import BETWEEN, Chosen

OrderBy = Literal["class", "donor"]

# beside red and blue, which are the values
_CLASSES: Final = (_style.SKY, _style.ORANGE, _style.GREEN, _style.PURPLE)
_ROW: Final = 0.13  # inches
# rows: height of the classes' strip above the heatmap, and where it starts
_STRIP, _TOP = 0.7, -1.4
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
        `n_genes` is below 1, `order_by` is neither, or the signature is a slope over numbers.
    """
    choice(order_by, ("class", "donor"), "order_by")
    chosen = Chosen.read(adata, key, n_genes, genes, show_masked=show_masked)
    table = chosen.table
    if chosen.number:
        raise ValueError(
            f"adata.uns[{key!r}] is a slope over the numbers of {chosen.number!r}, and the heatmap "
            "has columns of classes. Draw pl.signature."
        )
    if genes is None and len(table):
        table = table[table["selected"]]
    samples = pd.DataFrame()
    if len(table):
        remedy = "Run tl.signature again."
        _record.read(adata, key, "tl.signature", ["expression"], missing=remedy)
        samples = _samples(chosen, order_by)
    width = float(np.clip(2.0 + 0.13 * len(samples), 3.4, 7.0))
    new, size = ax is None, (width, 1.5 + _ROW * max(len(table), 5))
    [ax] = _style.panels(ax, figsize, size)
    if table.empty:
        _rows.words_instead(ax, chosen.instead())
        return ax
    image = _cells(ax, _centred(chosen, list(table["gene"]), samples), table)
    _strip(ax, samples, chosen, order_by)
    _bar(ax, image, "donor" if chosen.paired else "gene")
    _donors(ax, samples, order_by)
    ax.spines[:].set_visible(False)
    _rows.captions(ax, chosen.title(), "" if chosen.paired else BETWEEN, new=new)
    return ax


def _samples(chosen: Chosen, order_by: OrderBy) -> pd.DataFrame:
    """Donor and class of each column in the order drawn, with its place as it was written."""
    samples = pd.DataFrame(chosen.record["samples"])[["donor", "class"]].astype(str)
    samples = samples.reset_index(drop=True).assign(place=range(len(samples)))
    samples["code"] = samples["class"].map(chosen.classes.index).astype(int)
    by = ["code", "donor"] if order_by == "class" else ["donor", "code"]
    return samples.sort_values(by, kind="stable", ignore_index=True)


def _centred(chosen: Chosen, genes: list[str], samples: pd.DataFrame) -> np.ndarray:
    """Log2 sums, genes × samples, less the donor's mean or, without pairs, the gene's."""
    expression = pd.DataFrame(chosen.record["expression"])
    sums = expression.loc[genes].iloc[:, samples["place"]]
    log = sums.to_numpy(dtype=float)
    if not chosen.paired:
        return np.asarray(log - log.mean(axis=1, keepdims=True))
    by_donor = pd.DataFrame(log.T).groupby(samples["donor"].to_numpy())
    return np.asarray(log - by_donor.transform("mean").to_numpy().T)


def _cells(ax: Axes, values: np.ndarray, table: pd.DataFrame) -> AxesImage:
    """The heatmap, with a line between the genes that go up and those that go down."""
    most = float(np.percentile(np.abs(values), _CLIPPED)) or 1.0
    image = _style.heatmap(ax, values, "RdBu_r", -most, most)
    ax.set_yticks(range(len(table)), [_style.shortened(gene) for gene in table["gene"]])
    n_up = int((table["sign"] > 0).sum())
    if 0 < n_up < len(table):
        ax.axhline(n_up - 0.5, color="white", linewidth=2)
    look: _style.Look = {"fontsize": 7, "color": _style.GREY}
    look["xycoords"] = ax.get_yaxis_transform()
    for word, first, last in (("up", 0, n_up), ("down", n_up, len(table))):
        if first < last:
            middle = (first + last - 1) / 2
            _style.note(ax, word, (1, middle), (4, 0), va="center", **look)
    return image


def _strip(ax: Axes, samples: pd.DataFrame, chosen: Chosen, order_by: OrderBy) -> None:
    """A colour per class above the columns with its legend, and lines between blocks of columns."""
    classes = [_style.shortened(name) for name in chosen.classes]
    colors = [_CLASSES[i % len(_CLASSES)] for i in range(len(classes))]
    for i, code in enumerate(samples["code"]):
        field = Rectangle((i - 0.5, _TOP), 1, _STRIP, linewidth=0)
        ax.add_patch(field).set_facecolor(colors[code])
    ax.set_ylim(top=_TOP)
    block = samples["code" if order_by == "class" else "donor"].to_numpy()
    width = 2 if order_by == "class" else 1.2
    for last in np.flatnonzero(block[1:] != block[:-1]):
        ax.axvline(last + 0.5, color="white", linewidth=width)
    handles = [Patch(color=color) for color in colors]
    look: _style.Look = {"borderaxespad": 0.3, "borderpad": 0.2, "handlelength": 1}
    look["columnspacing"], look["bbox_to_anchor"] = 1.2, (0, 1)
    ax.legend(handles, classes, loc="lower left", ncols=len(handles), **look)


def _donors(ax: Axes, samples: pd.DataFrame, order_by: OrderBy) -> None:
    """Name the donors below, once each where their columns are side by side, if there is room."""
    ax.tick_params(axis="both", length=0, pad=2)
    places = samples.assign(place=range(len(samples)))
    if order_by == "donor":
        places = places.groupby("donor", sort=False)["place"].mean().reset_index()
    ax.set_xticks([])
    ax.set_xlabel("donor")
    _style.lay_out(ax)
    if _style.width(ax) * 72 < _NAME * len(places):
        ax.set_xlabel(f"{samples['donor'].nunique()} donors")
        return
    names = [_style.shortened(name, 12) for name in places["donor"]]
    ax.set_xticks(places["place"], names, rotation=90)


def _bar(ax: Axes, image: AxesImage, mean: str) -> None:
    """Colour bar with its unit: at the side or, in a narrow figure, below."""
    place: _style.Look = {"location": "right", "aspect": 14, "shrink": 0.6}
    if _style.width(ax) < _NARROW:
        place = {"location": "bottom", "aspect": 30, "shrink": 0.8}
    label = f"log₂ expression − {mean}'s mean"
    bar = _style.bar(ax, image, label, extend="both", pad=0.03, **place)
    bar.locator = MaxNLocator(4)  # more would touch each other
    bar.update_ticks()
