"""pl.perturb: what the network says of cells without a gene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import at_least, key_in
from scbert_cll.pl import _rows, _style

_CAPTION: Final = (
    "Mean over donors with 95 % interval (t); small dots: single donors; shift: how far the "
    "embedding moves. "
)
_SINGLE: Final = "Hollow: one donor, no interval. "
_CAVEAT: Final = "The network's opinion, not an experiment."
_UNKNOWN: Final[dict[str, Any]] = {
    "ha": "center",
    "va": "center",
    "fontsize": _rows.SMALL,
    "color": _style.GREY,
}


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
    KeyError
        There is no such result or group.
    ValueError
        `ax` is given for several groups, or `n_genes` is below 1.
    """
    held = _found(adata, key)
    table = _chosen(held, groups, key)
    wanted = list(dict.fromkeys(table["group"]))
    if ax is not None and len(wanted) > 1:
        raise ValueError(
            f"ax holds one group, there are {len(wanted)}; name one with groups=, or leave ax out."
        )
    at_least(n_genes, 1, "n_genes")
    names = _order(table, n_genes)
    if ax is None:
        fig, axes = _figure(len(wanted), len(names), n_columns, figsize)
    else:
        fig, axes = _style.figure_of(ax), [ax]
    for panel, group in zip(axes, wanted, strict=True):
        rows = table[table["group"] == group].set_index("name").loc[names]
        _draw_rows(panel, rows, _counted(held, group))
        _rows.frame(panel, names)
        _rows.columns(panel, {"shift": [_number(v) for v in rows["shift"]]})
        panel.set_title(_heading(group, rows, alone=len(wanted) == 1), pad=12)
        panel.set_xlabel("change of log-odds")
    _rows.captions(fig, ax, _title(held["params"]), _caption(table))
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _found(adata: AnnData, key: str) -> Mapping[str, Any]:
    """What `tl.perturb` wrote."""
    _checks.adata.anndata(adata)
    key_in(key, adata.uns, "adata.uns", "Run tl.perturb first.")
    for part in ("summary", "donors", "params"):
        key_in(part, adata.uns[key], f"adata.uns[{key!r}]", "It was not written by tl.perturb.")
    return cast("Mapping[str, Any]", adata.uns[key])


def _chosen(held: Mapping[str, Any], groups: str | Iterable[str] | None, key: str) -> pd.DataFrame:
    """Rows of the groups asked for, in the order asked for."""
    table: pd.DataFrame = held["summary"].astype({"group": str, "name": str})
    there = list(dict.fromkeys(table["group"]))
    asked = (
        there
        if groups is None
        else [groups]
        if isinstance(groups, str)
        else list(dict.fromkeys(groups))
    )
    for group in asked:
        key_in(group, there, f"the groups of adata.uns[{key!r}]")
    return pd.concat([table[table["group"] == group] for group in asked])


def _order(table: pd.DataFrame, n: int) -> list[str]:
    """Genes with the largest changes, from the most negative mean over groups to the most positive.

    Unknown ones last.
    """
    by_name = table.groupby("name", sort=False)["log_odds"]
    largest = (
        by_name.apply(lambda v: v.abs().max()).sort_values(ascending=False, kind="stable").head(n)
    )
    return [str(name) for name in by_name.mean()[largest.index].sort_values(kind="stable").index]


def _counted(held: Mapping[str, Any], group: str) -> pd.DataFrame:
    """Donors of a group with enough changed cells."""
    donors: pd.DataFrame = held["donors"]
    enough = donors["n_cells"] >= int(held["params"]["min_cells"])
    return donors[enough & (donors["group"].astype(str) == group)]


def _draw_rows(ax: Axes, rows: pd.DataFrame, donors: pd.DataFrame) -> None:
    """Mean, interval and donors of each gene; a hollow mean is one donor's."""
    for i, (name, row) in enumerate(rows.iterrows()):
        if not np.isfinite(row["log_odds"]):
            ax.annotate("too few cells", (0.5, i), xycoords=ax.get_yaxis_transform(), **_UNKNOWN)
            continue
        single = bool(np.isnan(row["low"]))
        color = _style.BLUE if row["log_odds"] < 0 else _style.RED
        _rows.interval(ax, i, row["log_odds"], row["low"], row["high"], color=color, hollow=single)
        own = donors.loc[donors["name"].astype(str) == name, "log_odds"].to_numpy(dtype=float)
        if len(own) > 1:
            _rows.donors(ax, i, own, color=_style.GREY)


def _figure(
    n: int, n_rows: int, n_columns: int, figsize: tuple[float, float] | None
) -> tuple[Figure, list[Axes]]:
    """Panels on one scale, each tall enough for its rows."""
    n_columns = min(n, n_columns)
    lines = -(-n // n_columns)
    size = figsize or (
        max(3.6, 0.9 + 2.0 * n_columns),
        0.8 + lines * (0.75 + _rows.ROW * max(n_rows, 2)),
    )
    fig, axes = _style.panels(n, n_columns=n_columns, figsize=size, sharex=True, sharey=True)
    for ax in axes:
        ax.tick_params(labelbottom=True)
    return fig, axes


def _heading(group: str, rows: pd.DataFrame, *, alone: bool) -> str:
    """The group and its number of donors."""
    known = sorted({int(n) for n in rows["n_donors"] if n > 0}) or [0]
    n = (
        f"{known[0]}–{known[-1]} donors"
        if len(known) > 1
        else f"{known[0]} donor{'s' * (known[0] != 1)}"
    )
    return n if alone and group == "all" else f"{_style.shortened(group)}\n{n}"


def _title(params: Mapping[str, Any]) -> str:
    """What was changed, and the log-odds of what."""
    how = (
        "without the gene or set"
        if params["kind"] == "drop"
        else f"with the gene or set at level {params['level']}"
    )
    return f"Log-odds of {_style.shortened(str(params['target']))} {how}"


def _caption(table: pd.DataFrame) -> str:
    single = table["low"].isna() & table["log_odds"].notna()
    return f"{_CAPTION}{_SINGLE * bool(single.any())}{_CAVEAT}"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"
