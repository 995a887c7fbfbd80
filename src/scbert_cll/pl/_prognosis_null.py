"""pl.prognosis_null: how far random sets of genes get, and whether the signature gets farther."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scbert_cll import _keys, get
from scbert_cll._checks.words import key_in
from scbert_cll._survival import checks as survival_checks
from scbert_cll.pl import _rows, _style

_NAIVE: Final = 1.96  # |z| from which a p is below 0.05
_BINS: Final = 30
_BESIDE: Final = "none"


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
    """Draw how strongly random sets of genes go with the outcome, and how strongly the signature does.

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
    survival_checks.some_random_sets(len(null), key)
    wanted = _wanted(tests, adjusted, key)
    if ax is not None and len(wanted) > 1:
        raise ValueError(
            f"ax holds one adjustment, there are {len(wanted)}; name one with adjusted=, or "
            f"leave ax out."
        )
    if ax is None:
        fig, axes = _figure(len(wanted), n_columns, figsize)
    else:
        fig, axes = _style.figure_of(ax), [ax]
    drawn = [
        tests.loc[tests["adjusted"].isin(wanted), "z"],
        null.loc[null["adjusted"].isin(wanted), "z"],
    ]
    end = 1.05 * float(pd.concat(drawn).abs().max())
    for panel, name in zip(axes, wanted, strict=True):
        test = tests[tests["adjusted"] == name].iloc[0]
        sets = null.loc[null["adjusted"] == name, "z"].abs().dropna().to_numpy(dtype=np.float64)
        _histogram(panel, sets, abs(float(test["z"])), end)
        panel.set_title(_title(name, test), loc="left", fontsize=7)
        panel.set(xlabel="|z|", ylabel="random gene sets")
    _legend(fig, axes[0], own=ax is None)
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _wanted(tests: pd.DataFrame, adjusted: str | Sequence[str] | None, key: str) -> list[str]:
    """Adjustments to draw."""
    there = list(dict.fromkeys(tests["adjusted"]))
    asked = (
        there
        if adjusted is None
        else [adjusted]
        if isinstance(adjusted, str)
        else list(dict.fromkeys(adjusted))
    )
    for name in asked:
        key_in(name, there, f"the column 'adjusted' of adata.uns[{key!r}]['null_tests']")
    return asked


def _figure(
    n: int, n_columns: int, figsize: tuple[float, float] | None
) -> tuple[Figure, list[Axes]]:
    """Panels as wide as their texts; under each other in a narrow figure."""
    columns = min(n, n_columns if figsize is None else max(1, int(figsize[0] // 2.2)))
    size = figsize or (max(3.4, 2.8 * columns), 0.3 + 2.3 * -(-n // columns))
    return _style.panels(n, n_columns=columns, figsize=size)


def _histogram(ax: Axes, sets: np.ndarray, observed: float, end: float) -> None:
    """Random sets, those with a small p in colour; the signature.

    And what the naive p takes for granted.
    """
    end = max(end, 1.2 * _NAIVE)
    bins = _edges(end, len(sets))
    for part, color, label in (
        (sets[sets < _NAIVE], _style.LIGHT, "random gene sets"),
        (sets[sets >= _NAIVE], _style.ORANGE, "with p < 0.05"),
    ):
        ax.hist(part, bins, color=color, label=label)
    x = np.linspace(0, end, 200)
    expected = len(sets) * (bins[1] - bins[0]) * np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
    ax.plot(
        x, expected, color=_style.GREY, linewidth=0.9, linestyle="--", label="if no gene mattered"
    )
    ax.axvline(_NAIVE, color=_style.GREY, linewidth=0.7, linestyle=":")
    ax.axvline(observed, color=_style.BLUE, linewidth=1.5, label="signature")
    ax.set_xlim(0, end)


def _edges(end: float, n: int) -> list[float]:
    """Bins of one width, fewer of few sets, with an edge where p is 0.05."""
    width = _NAIVE / max(2, round(min(_BINS, 1.2 * np.sqrt(n)) * _NAIVE / end))
    return [width * i for i in range(int(np.ceil(end / width)) + 1)]


def _title(name: str, test: pd.Series) -> str:
    """The adjustment, both p, and how usual a small one is."""
    n = int(test["n_sets"])
    return "\n".join(
        [
            "not adjusted" if name == _BESIDE else f"adjusted: {_style.shortened(name, 30)}",
            (
                f"naive {_rows.p_value(test['naive_p'])}, empirical "
                f"{_rows.p_value(test['empirical_p'])}"
            ),
            f"{100 * test['share_significant']:.0f} % of {n:,} random sets have p < 0.05",
        ]
    )


def _legend(fig: Figure, ax: Axes, *, own: bool) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if own:
        fig.legend(
            handles, labels, loc="outside lower center", ncols=4 if fig.get_figwidth() > 4.5 else 2
        )
    else:
        ax.legend(handles, labels, fontsize=_rows.SMALL)
