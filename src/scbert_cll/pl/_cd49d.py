"""pl.cd49d: protein against RNA, for cells, within donors and between donors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from mudata import MuData
from scipy.stats import spearmanr

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._gene_names import resolver
from scbert_cll._protein import cite_seq
from scbert_cll.pl import _style

Level = Literal["cell", "within", "donor"]

# Fewer cells say nothing of a correlation within a donor, fewer donors nothing of one between them.
_LEAST_CELLS, _LEAST_DONORS = 20, 4
_NAMED_DONORS = 20


_CELL, _CELLS, _GIVEN = "CLR in the cell", "CLR over cells", "as given"
_UNITS: Final = {"clr_cell": _CELL, "clr_protein": _CELLS, "none": _GIVEN}


@dataclass(frozen=True)
class _Pair:
    """Gene and protein of each cell, and what they are called."""

    cells: pd.DataFrame  # umi, total, rna, protein and, where known, donor
    gene: str
    protein: str  # with its unit


@_style.plot
def cd49d(
    data: AnnData | MuData,
    *,
    marker: str = "CD49d",
    gene: str = "ITGA4",
    protein_key: str | None = None,
    rna_key: str | None = None,
    layer: str | None = None,
    normalize: cite_seq.Normalize = "clr_cell",
    cells: np.ndarray | pd.Series | str | None = None,
    donor_key: str | None = _keys.DONOR,
    levels: Level | Sequence[Level] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw a protein against its gene's RNA: for cells, within donors and between donors.

    Why CD49d has to be learnt from other genes: *ITGA4* is detected in few cells, and where cells
    of one donor are compared it says little about the protein. A correlation over all cells mixes
    that with the differences between donors, so the three levels are drawn apart. *Cells*: protein
    by the gene's UMI count, Spearman's ρ over all cells. *Within donors*: ρ in each donor with its
    95 % interval, pooled by Fisher's z. *Donors*: means of the donors (pseudobulk).

    Parameters
    ----------
    data
        CITE-seq with raw counts: an AnnData with protein in ``obsm``, or a MuData with an RNA and a
        protein modality.
    marker
        Protein, found as in :func:`scbert_cll.pp.label_cd49d`; the axis shows the name it was found
        under.
    gene
        Its gene; found in the mouse, too (``Itga4``), and with a genome before its name.
    protein_key
        ``obsm`` key or modality of the protein. By default the one with a usual name.
    rna_key
        RNA modality of a MuData. By default the one with a usual name.
    layer
        Layer of the RNA's raw counts; by default ``X``.
    normalize
        Scale of the protein, as in :func:`scbert_cll.pp.label_cd49d`.
    cells
        Cells to draw, e.g. the CLL cells: boolean array, Series aligned by name, or boolean ``obs``
        column.
    donor_key
        ``obs`` column of donors. None draws the cells alone.
    levels
        ``"cell"``, ``"within"``, ``"donor"`` or several of them. By default all.
    figsize
        Width and height of the figure in inches. Narrow figures have the panels under each other.
    %(ax_of_one level)s
    %(show)s

    Returns
    -------
    %(drawn_of_several levels)s

    Raises
    ------
    KeyError
        Protein, marker, gene or column is not there, or the marker fits several proteins; what is
        there is listed.
    ValueError
        Values that are not raw counts, unpaired cells, or `ax` is given for several levels.

    Notes
    -----
    ρ within a donor is given from 20 cells on and between donors from 4; its standard error on
    Fisher's scale is √(1.06 / (n − 3)) (Fieller, Hartley & Pearson 1957,
    doi:10.1093/biomet/44.3-4.470), and donors are pooled with weights n − 3.
    """
    names = _levels(levels, donor_key)
    protein = cite_seq.find(data, protein_key, rna_key)
    rna, column = protein.rna, cite_seq.lookup(protein, marker)
    gene = resolver.gene_in_data(gene, rna.var_names)
    key_in(gene, dict.fromkeys(rna.var_names), "adata.var_names")
    counts = _checks.counts.counts(rna, layer)
    drawn = cite_seq.mask(data, rna, cells)
    if not drawn.any():
        raise ValueError("cells= leaves no cell to draw.")
    of_one_group = np.zeros(rna.n_obs, dtype=int)
    table = pd.DataFrame(index=rna.obs_names)
    table["umi"] = counts[:, [rna.var_names.get_loc(gene)]].toarray().ravel()
    table["total"] = np.asarray(counts.sum(axis=1)).ravel()
    table["rna"] = np.log2(1 + 1e4 * table["umi"] / np.maximum(table["total"], 1))
    normalized = cite_seq.levels(protein, column, normalize, of_one_group, drawn)
    table["protein"] = normalized.level
    if donor_key is not None:
        table["donor"] = cite_seq.donors(data, rna, donor_key, drawn)
        drawn &= table["donor"].notna().to_numpy()
    name_and_unit = f"{protein.names[column]} protein\n({_UNITS[normalize]})"
    pair = _Pair(table[drawn], gene, name_and_unit)
    size, n = (max(3.5, 2.5 * len(names)), 2.7), len(names)
    n_columns = 1 if figsize is not None and figsize[0] < 2.0 * n else 3
    axes = _style.panels(ax, figsize, size, n, ("level", "levels"), n_columns=n_columns)
    draw = {"cell": _draw_cells, "within": _draw_within, "donor": _draw_donors}
    for panel, level in zip(axes, names, strict=True):
        draw[level](panel, pair)
    return axes


def _levels(levels: Level | Sequence[Level] | None, donor_key: str | None) -> list[str]:
    """Panels to draw; without donors only the cells."""
    if levels is None:
        return list(get_args(Level)) if donor_key is not None else ["cell"]
    names: list[str] = [levels] if isinstance(levels, str) else list(levels)
    for name in names:
        choice(name, get_args(Level), "levels")
    if donor_key is None and (of_donors := set(names) - {"cell"}):
        raise ValueError(
            f"levels {listed(of_donors)} compare donors: name their column with donor_key=."
        )
    return names


def _draw_cells(ax: Axes, pair: _Pair) -> None:
    """Protein by UMI count of the gene."""
    umi = pair.cells["umi"].clip(upper=3).astype(int)
    by_umi = pair.cells["protein"].groupby(umi)
    for i, (_, values) in enumerate(by_umi):
        if len(values) >= _LEAST_CELLS and np.ptp(values) > 0:
            violin: Any = ax.violinplot(values, [i], widths=0.85, showextrema=False)
            violin["bodies"][0].set(facecolor=_style.SKY, alpha=0.8, edgecolor="none")
        else:
            x = np.full(len(values), i)
            ax.scatter(x, values, s=6, color=_style.SKY, linewidths=0)
        ax.hlines(np.median(values), i - 0.25, i + 0.25, color="black", linewidth=1.5)
    names = [f"{n if n < 3 else '≥3'}\n{len(values):,}" for n, values in by_umi]
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel=f"{pair.gene} UMI (below: cells)", ylabel=pair.protein)
    rho = _rho(pair.cells["rna"], pair.cells["protein"])
    detected = f"{pair.gene} detected in {np.mean(umi > 0):.0%} of {len(umi):,}"
    ax.set_title(f"Cells: {_in_words(rho)}\n{detected}")


def _draw_within(ax: Axes, pair: _Pair) -> None:
    """Correlation in each donor, and pooled."""
    rho = _within(pair.cells)
    if rho.empty:
        ax.set_title("Within donors: none has enough\ncells with the gene")
        ax.set(xticks=[], yticks=[])
        return
    y = np.arange(len(rho))
    ax.hlines(y, rho["low"], rho["high"], color=_style.LIGHT, linewidth=1.5)
    ax.scatter(rho["rho"], y, s=14, color=_style.BLUE, zorder=3)
    z, weight = np.arctanh(rho["rho"].clip(-0.999, 0.999)), rho["n"] - 3
    mean, half = np.average(z, weights=weight), 1.96 * np.sqrt(1.06 / weight.sum())
    pooled, low, high = np.tanh([mean, mean - half, mean + half])
    ax.hlines(-1.2, low, high, color=_style.RED, linewidth=2.5)
    ax.scatter(pooled, -1.2, s=36, marker="D", color=_style.RED, zorder=3)
    ax.axvline(0, color=_style.GREY, linewidth=0.7, linestyle=":")
    few = len(rho) <= _NAMED_DONORS
    rows = dict(zip(y, rho.index, strict=True)) if few else {}
    names = [_style.shortened(str(name), 14) for name in rows.values()]
    ax.set_yticks([-1.2, *rows], ["pooled", *names])
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("Spearman's ρ, 95 % interval")
    ax.set_ylabel("" if few else f"{len(rho)} donors")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    of = f"pooled over {len(rho)} of {pair.cells['donor'].nunique()} donors"
    ax.set_title(f"Within donors: {_in_words(float(pooled))}\n{of}")


def _draw_donors(ax: Axes, pair: _Pair) -> None:
    """Pseudobulk of the gene against mean protein."""
    how = {"umi": "sum", "total": "sum", "protein": "mean"}
    donors = pair.cells.groupby("donor").agg(how)
    cpm, protein = np.log2(1 + 1e6 * donors["umi"] / donors["total"]), donors["protein"]
    ax.scatter(cpm, protein, s=20, color=_style.BLUE, alpha=0.85, linewidths=0)
    ax.margins(0.12)
    ax.set(xlabel=f"{pair.gene} pseudobulk (log2 CPM)", ylabel=f"mean {pair.protein}")
    enough = len(donors) >= _LEAST_DONORS
    rho = _in_words(_rho(cpm, protein)) if enough else "too few for ρ"
    ax.set_title(f"Donors: {rho}\n{len(donors)} donors")


def _within(cells: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of each donor with enough cells in which both vary, largest first."""
    rows = {}
    for name, part in cells.groupby("donor"):
        enough = len(part) >= _LEAST_CELLS
        rho = _rho(part["rna"], part["protein"]) if enough else np.nan
        half = 1.96 * np.sqrt(1.06 / max(len(part) - 3, 1))
        z = np.arctanh(np.clip(rho, -0.999, 0.999))
        rows[name] = [rho, len(part), np.tanh(z - half), np.tanh(z + half)]
    columns = ["rho", "n", "low", "high"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.dropna().sort_values("rho")


def _rho(x: pd.Series, y: pd.Series) -> float:
    """Spearman's ρ; missing where one of the two does not vary."""
    vary = np.ptp(x) > 0 and np.ptp(y) > 0
    return float(spearmanr(x, y).statistic) if vary else np.nan


def _in_words(rho: float) -> str:
    return "ρ undefined" if np.isnan(rho) else f"ρ = {rho:.2f}".replace("-", "−")
