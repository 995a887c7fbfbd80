"""pl.prognosis_null: how far random sets of genes get, and whether the signature gets farther."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record, get
from scbert_cll.pl import _rows, _style

_NAIVE: Final = 1.96  # |z| from which a p is below 0.05
_BINS: Final = 30
_UNADJUSTED: Final = "none"


@_style.plot
def prognosis_null(
    adata: AnnData,
    *,
    adjusted: str | Sequence[str] | None = None,
    key: str = _keys.PROGNOSIS,
    n_columns: int = 2,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how strongly random sets of genes, and the signature, go with the outcome.

    A histogram of the size of z of random sets, a line at that of the signature, and a panel per
    adjustment. In colour are random sets with p < 0.05, and the dashed curve is where they would
    lie if no gene went with the outcome: where proliferation alone moves half of the transcriptome
    and the outcome, a small p is no news (Venet, Dumont & Detours 2011,
    doi:10.1371/journal.pcbi.1002240). The empirical p is the share of random sets that get as far
    as the signature.

    Parameters
    ----------
    adata
        Samples × genes after :func:`scbert_cll.tl.prognosis` of a signature.
    adjusted
        Adjustment or adjustments to draw, ``"none"``, ``"clinical"`` etc. By default all.
    %(key tl.prognosis)s
    %(n_columns)s
    %(figsize)s
    %(ax_of_one adjustment)s
    %(show)s

    Returns
    -------
    %(drawn_of_several adjustments)s

    Raises
    ------
    KeyError
        There is no such result or adjustment.
    ValueError
        There are no random sets, or `ax` is given for several adjustments.
    """
    tests = get.prognosis(adata, "null_tests", key=key)
    null = get.prognosis(adata, "null", key=key)
    if null.empty:
        raise ValueError(
            f"adata.uns[{key!r}] holds no random sets of genes; adata.uns[{key!r}]['notes'] says "
            "why. Run tl.prognosis with a signature and n_random above 0."
        )
    where = f"the column 'adjusted' of adata.uns[{key!r}]['null_tests']"
    names = _record.named(adjusted, tests["adjusted"], where)
    new, n = ax is None, len(names)
    columns = min(n, n_columns if figsize is None else max(1, int(figsize[0] // 2.2)))
    size = (max(3.4, 2.8 * columns), 0.3 + 2.3 * -(-n // columns))
    of = ("adjustment", "adjusted")
    axes = _style.panels(ax, figsize, size, n, of, n_columns=columns)
    both = pd.concat([tests, null])
    end = 1.05 * float(both.loc[both["adjusted"].isin(names), "z"].abs().max())
    for panel, name in zip(axes, names, strict=True):
        test = tests[tests["adjusted"] == name].iloc[0]
        sets = null.loc[null["adjusted"] == name, "z"].abs().dropna()
        _histogram(panel, sets.to_numpy(dtype=np.float64), abs(float(test["z"])), end)
        panel.set_title(_title(name, test), loc="left", fontsize=7)
        panel.set(xlabel="|z|", ylabel="random gene sets")
    _style.legend(axes[:1], new=new, ncols=4 if (figsize or size)[0] > 4.5 else 2)
    return axes


def _histogram(ax: Axes, sets: np.ndarray, observed: float, end: float) -> None:
    """Random sets, those with a small p in colour; the signature; and what the naive p assumes."""
    end = max(end, 1.2 * _NAIVE)
    bins = _edges(end, len(sets))
    ax.hist(sets[sets < _NAIVE], bins, color=_style.LIGHT, label="random gene sets")
    ax.hist(sets[sets >= _NAIVE], bins, color=_style.ORANGE, label="with p < 0.05")
    x = np.linspace(0, end, 200)
    expected = len(sets) * (bins[1] - bins[0]) * np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
    dashed: _style.Look = {"color": _style.GREY, "linewidth": 0.9, "linestyle": "--"}
    ax.plot(x, expected, label="if no gene mattered", **dashed)
    ax.axvline(_NAIVE, color=_style.GREY, linewidth=0.7, linestyle=":")
    ax.axvline(observed, color=_style.BLUE, linewidth=1.5, label="signature")
    ax.set_xlim(0, end)


def _edges(end: float, n: int) -> list[float]:
    """Bins of one width, fewer of few sets, with an edge where p is 0.05."""
    width = _NAIVE / max(2, round(min(_BINS, 1.2 * np.sqrt(n)) * _NAIVE / end))
    return [width * i for i in range(int(np.ceil(end / width)) + 1)]


def _title(name: str, test: pd.Series) -> str:
    """The adjustment, both p, and how usual a small one is."""
    naive, empirical = (_rows.p_value(test[p]) for p in ("naive_p", "empirical_p"))
    adjusted = f"adjusted: {_style.shortened(name, 30)}"
    return (
        f"{'not adjusted' if name == _UNADJUSTED else adjusted}\n"
        f"naive {naive}, empirical {empirical}\n"
        f"{100 * test['share_significant']:.0f} % of {int(test['n_sets']):,} random sets have "
        "p < 0.05"
    )
