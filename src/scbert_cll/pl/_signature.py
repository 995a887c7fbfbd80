"""pl.signature: genes that go with a class within donors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record
from scbert_cll._checks.words import at_least
from scbert_cll._gene_names.resolver import in_data
from scbert_cll._record import Names
from scbert_cll._signature.both import LEVEL
from scbert_cll.pl import _rows, _style

_PARTS: Final = ("genes", "differences", "reason", "params")
_NEAREST: Final = 15  # genes drawn where none passes
_FEWEST: Final = 2  # donors, of which none can be left out
_FAMILIES: Final = {"immunoglobulin": "IG", "mitochondrial": "MT", "ribosomal": "ribo"}
_WORDS: Final = "Mean over donors with 95 % interval; small dots: single donors."
_DOTS: Final = "Small dots: donors of the last class, less the mean of the others."
_SHARES: Final = "Small dots: donors' parts in the slope, which is their mean."
_HOLLOW = "Hollow: of a family that differs between donors or cells whatever is asked."
_GREY: Final = "Grey: does not pass."
_PICKED: Final = (
    "The genes that came nearest: picked out of many, some intervals leave out zero by chance."
)
_BOTH: Final = "● joined, ▲ within donors, ■ between donors, with 95 % intervals."
_UNLIKE: Final = "≠: both parts disagree, so that a gene does not pass."
BETWEEN: Final = "Between donors: confounded with all else in which they differ."
# mark and colour of both parts of an estimate, and how many rows below it they are
_PARTS_OF_BOTH: Final = {"within": ("^", _style.GREEN, 0.3), "between": ("s", _style.PURPLE, 0.56)}
_HIGHER: Final = 0.2  # rows, of the estimate above its parts
_TALLER: Final = 1.8  # rows with both parts


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
    """Draw a signature as a forest: the change of each gene between classes, and in each donor.

    A row per gene, from the one that goes up most to the one that goes down most: the log2 fold
    change with its 95 % interval, a dot per donor, q, and of how many donors any one can be left
    out and the gene is still found. Where attributions were put into the signature, their z stands
    beside it. Genes of families that differ between donors or cells whatever is asked are hollow.

    With ``design="both"`` the joined estimate has both its parts below it, within and between
    donors, in the place of single donors, and p of their disagreement beside it. Genes that would
    pass if their parts did not disagree are drawn, too, in grey and with ≠.

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
    chosen = Chosen.read(adata, key, n_genes, genes, show_masked=show_masked)
    row = _rows.ROW * (_TALLER if chosen.joined else 1)
    new, size = ax is None, (4.6, 1.35 + row * max(len(chosen.table), 3))
    [ax] = _style.panels(ax, figsize, size)
    if chosen.table.empty:
        _rows.words_instead(ax, chosen.instead())
        return ax
    _draw_rows(ax, chosen)
    _rows.frame(ax, list(chosen.table["gene"]))
    _rows.columns(ax, _texts(chosen))
    ax.set_xlabel(_axis(chosen))
    if chosen.selected.empty:
        n = len(chosen.table)  # below the rows nothing else is
        ax.set_ylim(bottom=n + 0.8)
        text = _style.in_row(ax, 0.5, n + 0.15, "none passes", ha="center", fontsize=10)
        text.set_bbox(_style.WHITE | {"pad": 1})
    _rows.captions(ax, chosen.title(), _caption(chosen), new=new)
    return ax


@dataclass(frozen=True)
class Chosen:
    """Genes of a signature to draw, from up to down, and what is said of the whole signature."""

    record: Mapping[str, Any]
    table: pd.DataFrame
    left_out: str = ""  # which genes of the signature are not drawn

    @classmethod
    def read(
        cls, adata: AnnData, key: str, n_genes: int, genes: Names, *, show_masked: bool
    ) -> Chosen:
        """Those named, else the clearest of each direction, of which some are left out."""
        hint = f"(adata.varm[{_keys.GENE_ATTENTION!r}] is drawn by pl.gene_attention.)"
        hint = hint if _keys.GENE_ATTENTION in getattr(adata, "varm", ()) else ""
        record = _record.read(adata, key, "tl.signature", _PARTS, hint=hint)
        at_least(n_genes, 1, "n_genes")
        table: pd.DataFrame = record["genes"]
        if genes is not None:
            tested = table["gene"] if len(table) else pd.Series(dtype=object)
            remedy = "Only genes that were tested can be drawn."
            genes = in_data([genes] if isinstance(genes, str) else genes, pd.Index(tested))
            names = _record.named(genes, tested, f"adata.uns[{key!r}]['genes']", remedy)
            named = table[table["gene"].isin(names)]
            return cls(record, named.sort_values("log2_fc", ascending=False))
        if table.empty:
            return cls(record, table)
        passing = table[table["selected"] | cls(record, table).unlike]
        passing = table.head(_NEAREST) if passing.empty else passing
        plain = passing if show_masked else passing[passing["family"] == ""]
        shown = plain.groupby("sign", group_keys=False).head(n_genes)
        n, n_plain, n_shown = (part["selected"].sum() for part in (passing, plain, shown))
        unclear, masked = n_plain - n_shown, n - n_plain
        counts = {"less clear": unclear, "of families": masked}
        left_out = " and ".join(f"{n} {what}" for what, n in counts.items() if n)
        shown = shown.sort_values("log2_fc", ascending=False)
        return cls(record, shown, f"not shown: {left_out}" * bool(left_out))

    @property
    def classes(self) -> list[str]:
        """The classes in their order."""
        return [str(name) for name in self.record["params"]["classes"]]

    @property
    def number(self) -> str:
        """The column over which the signature is a slope; or nothing, where it is of classes."""
        return "" if self.classes else _style.shortened(str(self.record["params"]["groupby"]))

    @property
    def n_donors(self) -> int:
        """Donors that were compared."""
        return int(self.record["n_donors"])

    @property
    def paired(self) -> bool:
        """Whether classes were compared within donors."""
        params = self.record["params"]
        design = params.get("design", "within" if params.get("paired", True) else "between")
        return bool(design == "within" or (design == "both" and not self.n_within))

    @property
    def n_within(self) -> int:
        """Donors with both classes, where both parts are joined; or none."""
        return int(self.record.get("n_donors_within", 0))

    @property
    def joined(self) -> bool:
        """Whether both parts of the estimates are there."""
        return bool(self.n_within and "low_within" in self.table)

    @property
    def unlike(self) -> pd.Series:
        """Genes of the table that do not pass since their parts disagree, true/false."""
        if not self.joined:
            return pd.Series(data=False, index=self.table.index)
        passes = (self.table["q"] < self.record["params"]["alpha"]) & self.table["agrees"]
        return pd.Series(passes & (self.table["p_disagree"] <= LEVEL))

    @property
    def adjusted(self) -> str:
        """For which covariates the comparison is adjusted."""
        params = self.record["params"]
        cancelled = list(params.get("covariates_cancelled", ()))
        names = [name for name in params.get("covariates", ()) if name not in cancelled]
        return f", adjusted for {', '.join(map(_style.shortened, names))}" if names else ""

    @property
    def selected(self) -> pd.DataFrame:
        """All genes of the signature."""
        table: pd.DataFrame = self.record["genes"]
        return table[table["selected"]] if len(table) else table

    def against(self) -> str:
        """Which class against which, and where."""
        where = f", {'within' if self.paired else 'between'} {self.n_donors} donors"
        if self.n_within:
            where = f", within {self.n_within} donors and between {self.n_donors}"
        what = f"slope over {self.number}"
        if self.classes:
            first, last = (_style.shortened(self.classes[i]) for i in (0, -1))
            what = f"{last} against {first}"
        return f"{what}{(where + self.adjusted) * bool(self.n_donors)}"

    def instead(self) -> str:
        """What stands where no gene is drawn."""
        reason = self.record["reason"]
        why = f"none passes: {reason}" if reason else self.left_out
        return f"{self.against()}\n{why}"

    def title(self) -> str:
        """Classes, donors, and how many genes pass of how many; or why none does."""
        n, tested = len(self.selected), f"{int(self.record['n_tested']):,} genes tested"
        if not n:
            return f"{self.against()}\nnone of {tested} passes: {self.record['reason']}"
        sign = self.selected["sign"]
        n_up, n_down = int((sign > 0).sum()), int((sign < 0).sum())
        counts = f"{n} of {tested} pass{'es' * (n == 1)}: {n_up} up, {n_down} down"
        n_unlike = int(replace(self, table=self.record["genes"]).unlike.sum())
        counts += f"; {n_unlike} more would if both parts agreed" * bool(n_unlike)
        left_out = f" ({self.left_out})" * bool(self.left_out)
        return f"{self.against()}\n{counts}{left_out}"


def _draw_rows(ax: Axes, chosen: Chosen) -> None:
    """Mean, interval and donors of each gene."""
    donors: pd.DataFrame = chosen.record["differences"]
    for i, (_, gene) in enumerate(chosen.table.iterrows()):
        direction = _style.RED if gene["sign"] > 0 else _style.BLUE
        color = direction if gene["selected"] else _rows.FAINT
        hollow, row = gene["family"] != "", i - _HIGHER * chosen.joined
        numbers = gene[["log2_fc", "low", "high"]]
        _rows.interval(ax, row, *numbers, color=color, hollow=hollow)
        for part, (mark, part_color, below) in _PARTS_OF_BOTH.items() if chosen.joined else ():
            of_part = gene[[f"{name}_{part}" for name in ("log2_fc", "low", "high")]]
            look = {"color": part_color, "hollow": hollow, "mark": mark}
            _rows.interval(ax, row + below, *of_part, **look)
        if gene["gene"] in donors.index and not chosen.joined:
            _rows.donors(ax, i, donors.loc[gene["gene"]].to_numpy(dtype=float))


def _texts(chosen: Chosen) -> _rows.Texts:
    """Columns to the right of the rows."""
    table, n = chosen.table, chosen.n_donors
    texts = {"q": [_rows.number(q) for q in table["q"]]}
    left_out = [f"{k}/{n}" if n > _FEWEST else "–" for k in table["n_left_out"]]
    texts["leave\none out"] = left_out
    if chosen.joined:
        ps = [_rows.number(p) for p in table["p_disagree"]]
        marks = np.where(table["p_disagree"] <= LEVEL, "≠ ", "")
        texts["parts\ndiffer, p"] = [f"{mark}{p}" for mark, p in zip(marks, ps, strict=True)]
    if "attribution_z" in table:
        texts["attri-\nbution z"] = [_rows.signed(z) for z in table["attribution_z"]]
    if (table["family"] != "").any():
        texts["family"] = [_FAMILIES.get(name, name) for name in table["family"]]
    return texts


def _axis(chosen: Chosen) -> str:
    if chosen.number:
        return f"log₂ fold change per 1 of {chosen.number}"
    first, last = (_style.shortened(chosen.classes[i], 16) for i in (0, -1))
    if len(chosen.classes) > 2:
        return f"log₂ change from first ({first}) to last ({last})"
    return f"log₂ fold change, {last} / {first}"


def _caption(chosen: Chosen) -> str:
    words = [_WORDS] if chosen.paired else [BETWEEN, _SHARES if chosen.number else _DOTS]
    if chosen.joined:
        words = [_BOTH, BETWEEN]
        words += [_UNLIKE] if (chosen.table["p_disagree"] <= LEVEL).any() else []
    elif verdict := str(chosen.record.get("verdict", "")):
        words += [f"{verdict[0].upper()}{verdict[1:]}."]
    words += [_HOLLOW] if (chosen.table["family"] != "").any() else []
    if chosen.selected.empty:
        return " ".join([*words, _PICKED])
    words += [_GREY] if not chosen.table["selected"].all() else []
    return " ".join(words)
