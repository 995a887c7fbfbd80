"""pl.perturb: what the network says of cells without a gene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record
from scbert_cll._checks.words import at_least
from scbert_cll.pl import _rows, _style

_CAPTION: Final = (
    "Mean over donors with 95 % interval (t); small dots: single donors; shift: how far the "
    "embedding moves. "
)
_SINGLE: Final = "Hollow: one donor, no interval. "
_CAVEAT: Final = "The network's opinion, not an experiment."


@_style.plot
def perturb(
    adata: AnnData,
    *,
    groups: str | Iterable[str] | None = None,
    n_genes: int = 30,
    key: str = _keys.PERTURB,
    n_columns: int = 3,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how the log-odds of a class change when genes are changed.

    One panel per group of cells, on one scale; a row per gene or set, those that speak most for the
    class on top: the mean over donors of the change over the cells that change, its 95 % interval,
    a dot per donor, and how far the embedding moves. Without a gene the log-odds fall if the
    network takes it as a sign of the class. A gene that was changed in too few cells is named, and
    has no value.

    Parameters
    ----------
    %(adata_after tl.perturb)s
    groups
        Group or groups to draw. By default all.
    n_genes
        Number of genes or sets at most, those with the largest change in any of the groups.
    %(key tl.perturb)s
    %(n_columns)s
    %(figsize)s
    %(ax_of_one group)s
    %(show)s

    Returns
    -------
    %(drawn_of_several groups)s

    Raises
    ------
    %(no_such_group)s
    ValueError
        `ax` is given for several groups, or `n_genes` is below 1.
    """
    record = _record.read(adata, key, "tl.perturb", ["summary", "donors", "params"])
    at_least(n_genes, 1, "n_genes")
    table: pd.DataFrame = record["summary"].astype({"group": str, "name": str})
    shown = _record.named(groups, table["group"], f"the groups of adata.uns[{key!r}]")
    table = pd.concat([table[table["group"] == group] for group in shown])
    names, new, n = _order(table, n_genes), ax is None, len(shown)
    columns = min(n, n_columns)
    height = 0.75 + _rows.ROW * max(len(names), 2)
    size = (max(3.6, 0.9 + 2.0 * columns), 0.8 + -(-n // columns) * height)
    one_scale = {"n_columns": columns, "sharex": True, "sharey": True}
    axes = _style.panels(ax, figsize, size, n, ("group", "groups"), **one_scale)
    donors: pd.DataFrame = record["donors"].astype({"group": str, "name": str})
    donors = donors[donors["n_cells"] >= int(record["params"]["min_cells"])]
    for panel, group in zip(axes, shown, strict=True):
        rows = table[table["group"] == group].set_index("name").loc[names]
        _draw_rows(panel, rows, donors[donors["group"] == group])
        _rows.frame(panel, names)
        shifts = [f"{x:.3f}" if np.isfinite(x) else "–" for x in rows["shift"]]
        _rows.columns(panel, {"shift": shifts})
        panel.set_title(_heading(group, rows, alone=n == 1), pad=12)
        panel.set_xlabel("change of log-odds")
        panel.tick_params(labelbottom=True)
    single = bool((table["low"].isna() & table["log_odds"].notna()).any())
    caption = f"{_CAPTION}{_SINGLE * single}{_CAVEAT}"
    _rows.captions(axes[0], _title(record["params"]), caption, new=new)
    return axes


def _order(table: pd.DataFrame, n: int) -> list[str]:
    """Genes with the largest changes, from the most negative mean to the most positive."""
    by_name = table.groupby("name", sort=False)["log_odds"]
    largest = by_name.apply(lambda changes: changes.abs().max())
    names = largest.sort_values(ascending=False, kind="stable").head(n).index
    means = by_name.mean()[names].sort_values(kind="stable")
    return [str(name) for name in means.index]


def _draw_rows(ax: Axes, rows: pd.DataFrame, donors: pd.DataFrame) -> None:
    """Mean, interval and donors of each gene; a hollow mean is one donor's."""
    for i, (name, row) in enumerate(rows.iterrows()):
        if not np.isfinite(row["log_odds"]):
            _style.in_row(ax, 0.5, i, "too few cells", ha="center")
            continue
        color = _style.BLUE if row["log_odds"] < 0 else _style.RED
        hollow, numbers = bool(np.isnan(row["low"])), row[["log_odds", "low", "high"]]
        _rows.interval(ax, i, *numbers, color=color, hollow=hollow)
        changes = donors.loc[donors["name"] == name, "log_odds"].to_numpy(dtype=float)
        if len(changes) > 1:
            _rows.donors(ax, i, changes)


def _heading(group: str, rows: pd.DataFrame, *, alone: bool) -> str:
    """The group and its number of donors."""
    numbers = sorted({int(n) for n in rows["n_donors"] if n > 0}) or [0]
    fewest = f"{numbers[0]}–" * (len(numbers) > 1)
    n = f"{fewest}{numbers[-1]} donor{'s' * (numbers != [1])}"
    return n if alone and group == "all" else f"{_style.shortened(group)}\n{n}"


def _title(params: Mapping[str, object]) -> str:
    """What was changed, and the log-odds of what."""
    level = f"with the gene or set at level {params['level']}"
    how = "without the gene or set" if params["kind"] == "drop" else level
    return f"Log-odds of {_style.shortened(str(params['target']))} {how}"
