"""pl.programmes: how donors use each programme, class by class."""

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

_PARTS: Final = ("programmes", "usage", "means", "reason", "params")
_CAPTION: Final = (
    "Thin: donors; thick: mean over donors with 95 % interval of what differs within them. Orange: "
    "tied to the class (q, permuted labels, and most of the genes)."
)
_ALONE: Final = "Dots: donors; bar: mean with 95 % interval."
_NAMES: Final = 24  # characters of genes above a panel


@_style.plot
def programmes(
    adata: AnnData,
    *,
    names: str | Iterable[str] | None = None,
    n_programmes: int = 12,
    key: str = _keys.PROGRAMMES,
    n_columns: int = 4,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the usage of each programme that recurs, class by class within donors.

    A panel per programme: the log2 usage of each donor's classes, joined by a line, and their mean
    over donors with the 95 % interval of what is within donors. Above it the number of donors that
    have the programme, its first genes, the family it is marked as, and with classes the log2 fold
    change and q. Where none recurs, the reason is written.

    Parameters
    ----------
    %(adata_after tl.programmes)s
    names
        Programme or programmes to draw. By default the first.
    n_programmes
        Number of programmes at most, if they are not named.
    %(key tl.programmes)s
    %(n_columns)s
    %(figsize)s
    %(ax_of_one programme)s
    %(show)s

    Returns
    -------
    %(drawn_of_several programmes)s

    Raises
    ------
    KeyError
        There is no such result or programme.
    ValueError
        `n_programmes` is below 1, or `ax` is given for several programmes.
    """
    record = _record.read(adata, key, "tl.programmes", _PARTS)
    at_least(n_programmes, 1, "n_programmes")
    table: pd.DataFrame = record["programmes"]
    shown = _record.named(names, table["programme"], f"adata.uns[{key!r}]['programmes']")
    shown = shown if names is not None else shown[:n_programmes]
    new, n = ax is None, max(len(shown), 1)
    columns = min(n, n_columns)
    size = (max(0.5 + 1.9 * columns, 3.4), 0.9 + 2.3 * -(-n // columns))
    of = ("programme", "names")
    axes = _style.panels(ax, figsize, size, n, of, n_columns=columns)
    if not shown:
        _rows.words_instead(axes[0], str(record["reason"]))
        return axes
    for panel, name in zip(axes, shown, strict=True):
        parts = (record[part] for part in ("usage", "means"))
        usage, means = (part[part["programme"] == name] for part in parts)
        row = table[table["programme"] == name].iloc[0]
        _draw(panel, usage, means, tied=bool(row.get("tied", False)))
        panel.set_title(_heading(row), fontsize=7, loc="left")
    span = max(np.ptp(panel.get_ylim()) for panel in axes)
    for panel in axes:  # as many units each, so that changes can be compared
        middle = np.mean(panel.get_ylim())
        panel.set_ylim(middle - span / 2, middle + span / 2)
    for panel in axes[::columns]:
        panel.set_ylabel("log₂ usage")
    is_tested = "tied" in table
    _rows.captions(axes[0], _title(record), _CAPTION if is_tested else _ALONE, new=new)
    return axes


def _draw(ax: Axes, usage: pd.DataFrame, means: pd.DataFrame, *, tied: bool) -> None:
    """A line per donor over the classes, and the mean with its interval."""
    classes = means["class"].astype(str).tolist()
    x, color = np.arange(len(classes)), _style.RED if tied else _style.BLUE
    for _, rows in usage.groupby("donor", observed=True):
        y = rows.set_index("class")["log2_usage"].reindex(classes)
        ax.plot(x, y, color=_style.GREY, marker=".", ms=3, lw=0.6, alpha=0.6)
    middle = means["log2_usage"].to_numpy(dtype=float)
    low, high = (means[name].to_numpy(dtype=float) for name in ("low", "high"))
    error = np.nan_to_num(np.abs([middle - low, high - middle]))
    ax.errorbar(x, middle, yerr=error, color=color, marker="o", ms=4, lw=1.6, capsize=2, zorder=3)
    ax.set_xticks(x, [_style.shortened(name, 12) for name in classes])
    ax.set_xlim(-0.5, len(classes) - 0.5)


def _heading(row: pd.Series) -> str:
    """Name, donors, mark, first genes, and the test."""
    mark = f", {row['mark']}" if row["mark"] else ""
    lines = [f"{row['programme']}: {row['n_donors']} donors{mark}"]
    lines.append(_first(str(row["genes"]).split(", ")))
    if "q" in row:
        lines.append(f"{_rows.signed(row['log2_fc'], 2)} log₂, q = {_rows.number(row['q'])}")
    return "\n".join(lines)


def _first(genes: list[str]) -> str:
    """As many names as there is room for, at least one."""
    n = next((n for n in range(len(genes), 1, -1) if len(", ".join(genes[:n])) <= _NAMES), 1)
    return _style.shortened(", ".join(genes[:n]), _NAMES)


def _title(record: Mapping[str, object]) -> str:
    """How many recur, how many do not, and why nothing was tested."""
    params = record["params"]
    least = params["min_donors"] if isinstance(params, Mapping) else "several"
    n, n_specific = record["n_programmes"], record["n_specific"]
    reason = f"\nNot tested: {record['reason']}" if record["reason"] else ""
    return f"{n} programmes recur in {least} donors or more, {n_specific} are of fewer{reason}"
