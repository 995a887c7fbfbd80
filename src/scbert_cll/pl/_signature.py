"""pl.signature: the genes that go with a class within donors, each with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import at_least, key_in
from scbert_cll.pl import _rows, _style

UP, DOWN = _style.RED, _style.BLUE
_NEAREST: Final = 15  # genes drawn where none passes
_FEWEST: Final = 2  # donors, of which none can be left out
_FAMILIES: Final = {"immunoglobulin": "IG", "mitochondrial": "MT", "ribosomal": "ribo"}
_WORDS: Final = "Mean over donors with 95 % interval; small dots: single donors."
_DOTS: Final = "Small dots: donors of the last class, less the mean of the others."
_HOLLOW: Final = "Hollow: of a family that differs between donors or cells whatever is asked."
_GREY: Final = "Grey: does not pass."
_PICKED: Final = (
    "The genes that came nearest: picked out of many, some intervals leave out zero by chance."
)
BETWEEN: Final = "Between donors: confounded with all else in which they differ."


@_style.plot
def signature(
    adata: AnnData,
    *,
    n_genes: int = 20,
    genes: str | Sequence[str] | None = None,
    key: str = _keys.SIGNATURE,
    show_masked: bool = True,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw a signature as a forest: how much each gene changes between the classes, in the mean and in each donor.

    A row per gene, from the one that goes up most to the one that goes down most: the log2 fold
    change with its 95 % interval, a dot per donor, q, and of how many donors any one can be left
    out and the gene is still found. Where attributions were put into the signature, their z stands
    beside it. Genes of families that differ between donors or cells whatever is asked are hollow.

    An empty signature looks like none: the reason is written, and the genes that came nearest are
    grey.

    Parameters
    ----------
    %(adata_after tl.signature)s
    n_genes
        Number of genes per direction at most, the clearest of each.
    genes
        Draw these genes instead, whether they pass or not.
    %(key tl.signature)s
    show_masked
        Draw genes of families that a signature should be read without (immunoglobulin, HLA, sex,
        mitochondrial, ribosomal, the marker's own).
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such result, or one of `genes` was not tested.
    ValueError
        `n_genes` is below 1.
    """
    held = found(adata, key)
    table, left_out = rows(held, n_genes, genes, key, show_masked=show_masked)
    size = figsize or (4.6, 1.35 + _rows.ROW * max(len(table), 3))
    fig, panel = _style.one(ax, size)
    if table.empty:
        _rows.words_instead(panel, instead(held, left_out))
        return _style.finish(fig, panel, show=show, return_fig=return_fig)
    _draw_rows(panel, table, held)
    _rows.frame(panel, list(table["gene"]))
    _rows.columns(panel, _texts(table, int(held["n_donors"])))
    panel.set_xlabel(_axis(held))
    if _selected(held).empty:
        _none_passes(panel, len(table))
    _rows.captions(fig, ax, title(held, left_out), _caption(table, held))
    return _style.finish(fig, panel, show=show, return_fig=return_fig)


def found(adata: AnnData, key: str) -> Mapping[str, Any]:
    """What `tl.signature` wrote, or where to get it."""
    _checks.adata.anndata(adata)
    remedy = "Run tl.signature first."
    if _keys.GENE_ATTENTION in adata.varm:
        remedy += f" (adata.varm[{_keys.GENE_ATTENTION!r}] is drawn by pl.gene_attention.)"
    key_in(key, adata.uns, "adata.uns", remedy)
    for part in ("genes", "differences", "reason", "params"):
        key_in(part, adata.uns[key], f"adata.uns[{key!r}]", "It was not written by tl.signature.")
    return cast("Mapping[str, Any]", adata.uns[key])


def rows(
    held: Mapping[str, Any],
    n_genes: int,
    genes: str | Sequence[str] | None,
    key: str,
    *,
    show_masked: bool,
) -> tuple[pd.DataFrame, str]:
    """Genes to draw, from up to down, and which ones that leaves out, in words."""
    at_least(n_genes, 1, "n_genes")
    table: pd.DataFrame = held["genes"]
    if genes is not None:
        return _named(table, [genes] if isinstance(genes, str) else list(genes), key), ""
    if table.empty:
        return table, ""
    some = table[table["selected"]] if table["selected"].any() else table.head(_NEAREST)
    plain = some if show_masked else some[some["family"] == ""]
    shown = plain.groupby("sign", group_keys=False).head(n_genes)
    return shown.sort_values("log2_fc", ascending=False), _left_out(
        len(some) - len(plain), len(plain) - len(shown)
    )


def _named(table: pd.DataFrame, names: list[str], key: str) -> pd.DataFrame:
    tested = dict.fromkeys(table["gene"]) if len(table) else {}
    for name in names:
        key_in(
            name,
            tested,
            f"adata.uns[{key!r}]['genes']",
            "Only genes that were tested can be drawn.",
        )
    return table[table["gene"].isin(names)].sort_values("log2_fc", ascending=False)


def _left_out(n_masked: int, n_more: int) -> str:
    """How many genes pass and are not drawn."""
    words = [f"{n_more} less clear" * (n_more > 0), f"{n_masked} of families" * (n_masked > 0)]
    named = " and ".join(word for word in words if word)
    return f"not shown: {named}" if named else ""


def _selected(held: Mapping[str, Any]) -> pd.DataFrame:
    table: pd.DataFrame = held["genes"]
    return table[table["selected"]] if len(table) else table


def paired(held: Mapping[str, Any]) -> bool:
    """Whether classes were compared within donors."""
    return bool(held["params"].get("paired", True))


def against(held: Mapping[str, Any]) -> str:
    """Which class against which, and where."""
    classes = [_style.shortened(str(name)) for name in held["params"]["classes"]]
    n = int(held["n_donors"])
    where = f", {'within' if paired(held) else 'between'} {n} donors" if n else ""
    return f"{classes[-1]} against {classes[0]}{where}"


def instead(held: Mapping[str, Any], left_out: str) -> str:
    """What stands where no gene is drawn."""
    return f"{against(held)}\n" + (f"none passes: {held['reason']}" if held["reason"] else left_out)


def title(held: Mapping[str, Any], left_out: str) -> str:
    """Classes, donors, and how many genes pass of how many; or why none does."""
    table, tested = _selected(held), f"{int(held['n_tested']):,} genes tested"
    if table.empty:
        return f"{against(held)}\nnone of {tested} passes: {held['reason']}"
    n_up, n_down = int((table["sign"] > 0).sum()), int((table["sign"] < 0).sum())
    counts = f"{len(table)} of {tested} pass{'es' * (len(table) == 1)}: {n_up} up, {n_down} down"
    return f"{against(held)}\n{counts}" + (f" ({left_out})" if left_out else "")


def _draw_rows(ax: Axes, table: pd.DataFrame, held: Mapping[str, Any]) -> None:
    """Mean, interval and donors of each gene."""
    donors: pd.DataFrame = held["differences"]
    for i, (_, gene) in enumerate(table.iterrows()):
        color = _rows.FAINT if not gene["selected"] else UP if gene["sign"] > 0 else DOWN
        _rows.interval(
            ax,
            i,
            gene["log2_fc"],
            gene["low"],
            gene["high"],
            color=color,
            hollow=gene["family"] != "",
        )
        if gene["gene"] in donors.index:
            _rows.donors(ax, i, donors.loc[gene["gene"]].to_numpy(dtype=float), color=_style.GREY)


def _none_passes(ax: Axes, n_rows: int) -> None:
    """Say so under the rows, where nothing else is."""
    ax.set_ylim(bottom=n_rows + 0.8)
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "color": _style.GREY}
    text = ax.text(0.5, n_rows + 0.15, "none passes", transform=ax.get_yaxis_transform(), **look)
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})


def _texts(table: pd.DataFrame, n_donors: int) -> dict[str, list[str]]:
    """What stands beside the rows."""
    texts = {"q": [_rows.number(q) for q in table["q"]]}
    can = n_donors > _FEWEST
    texts["leave\none out"] = [f"{n}/{n_donors}" if can else "–" for n in table["n_left_out"]]
    if "attribution_z" in table:
        texts["attri-\nbution z"] = [_rows.signed(z) for z in table["attribution_z"]]
    if (table["family"] != "").any():
        texts["family"] = [_FAMILIES.get(name, name) for name in table["family"]]
    return texts


def _axis(held: Mapping[str, Any]) -> str:
    classes = [_style.shortened(str(name), 16) for name in held["params"]["classes"]]
    if len(classes) > 2:
        return f"log₂ change from first ({classes[0]}) to last ({classes[-1]})"
    return f"log₂ fold change, {classes[-1]} / {classes[0]}"


def _caption(table: pd.DataFrame, held: Mapping[str, Any]) -> str:
    words = [_WORDS] if paired(held) else [BETWEEN, _DOTS]
    words += [_HOLLOW] if (table["family"] != "").any() else []
    if _selected(held).empty:
        return " ".join([*words, _PICKED])
    words += [_GREY] if not table["selected"].all() else []
    return " ".join(words)
