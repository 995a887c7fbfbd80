"""pl.forest: what a model says of each variable, the score among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from scbert_cll import _keys, get
from scbert_cll.pl import _rows, _style

SCORE: Final = "score"
_BESIDE: Final = "clinical + score"
_COMPLETE: Final = " (complete cases)"
_NOT_PROPORTIONAL: Final = 0.05
_FARTHEST: Final = 20.0  # ratio at which an interval is cut off, with an arrow
_TICKS: Final = {  # by how far the limits are apart
    2.5: (0.5, 0.7, 1, 1.4, 2),
    16: (0.2, 0.5, 1, 2, 5),
    60: (0.1, 0.3, 1, 3, 10),
    np.inf: (0.1, 1, 10),
}
_MEASURES: Final = {"HR": "hazard ratio", "OR": "odds ratio"}
_DAGGER: Final = "†"
_MOST: Final = 2


@_style.plot
def forest(
    adata: AnnData,
    *,
    model: str | Sequence[str] | None = None,
    key: str = _keys.PROGNOSIS,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the hazard ratios of a Cox model, or odds ratios where there are no times, with their 95 % intervals.

    A row per variable on a logarithmic scale, the score of the signature on top and in colour.
    Beside its p stands that against random sets of genes (as tested beside the same covariates),
    where there is one. With two models, as ``["score", "clinical + score"]``, the second is hollow:
    what is left of the score beside the covariates.

    Parameters
    ----------
    adata
        Samples × genes after :func:`scbert_cll.tl.prognosis`, or after
        :func:`scbert_cll.tl.survival` with covariates.
    model
        Model, or two models. By default ``"clinical + score"``, or the one with most variables
        where there is none of that name.
    key
        Name under which it was written.
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such result, no such model or no model at all; what there is is listed.
    ValueError
        More than two models.

    Notes
    -----
    A dagger marks variables whose hazards are not proportional (p < 0.05 by Schoenfeld residuals):
    their ratio is an average over time.
    """
    table = _chosen(
        get.prognosis(adata, "cox", key=key),
        get.prognosis(adata, "cox", key=key, model=model),
        model,
    )
    held = adata.uns[key]
    models = list(dict.fromkeys(table["model"]))
    own, (fig, ax) = (
        ax is None,
        _style.one(ax, figsize or (4.6, 1.3 + _rows.ROW * max(len(table), 3))),
    )
    limits = _limits(table)
    for i, row in enumerate(table.to_dict("records")):
        _row(ax, i, row, limits, hollow=row["model"] != models[0])
    measure = str(held["params"].get("measure", "HR"))
    texts = _texts(table, measure, _empirical(held, models))
    _frame(ax, table, limits, _rows.longest_name(ax, texts, own=own))
    ax.set_xlabel(f"{_MEASURES.get(measure, measure)} (log scale)")
    _rows.columns(ax, texts)
    _rows.captions(fig, None if own else ax, _title(table, models), _caption(table))
    return _style.finish(fig, ax, show=show, return_fig=return_fig)


def _chosen(
    everything: pd.DataFrame, asked: pd.DataFrame, model: str | Sequence[str] | None
) -> pd.DataFrame:
    """Rows of the models to draw: the score first, then as in the largest of the models, each variable once per model."""
    names = (
        [_fullest(everything)]
        if model is None
        else [model]
        if isinstance(model, str)
        else list(dict.fromkeys(model))
    )
    if len(names) > _MOST:
        raise ValueError(
            f"model must name one or two models; found {len(names)}: more cannot be told "
            f"apart in a row."
        )
    rows = asked[asked["model"].isin(names)]
    largest = rows["model"].value_counts().index[0]
    order = [*rows.loc[rows["model"] == largest, "variable"], *rows["variable"]]
    place = {
        name: i
        for i, name in enumerate(dict.fromkeys(sorted(order, key=lambda name: name != SCORE)))
    }
    keys = pd.DataFrame(
        {"variable": rows["variable"].map(place), "model": rows["model"].map(names.index)}
    ).astype(int)
    return rows.loc[keys.sort_values(["variable", "model"]).index].reset_index(drop=True)


def _fullest(table: pd.DataFrame) -> str:
    """The score beside the clinical covariates.

    Else the first of the models with most variables, with the score where there is one.
    """
    if _BESIDE in set(table["model"]):
        return _BESIDE
    own = table.loc[table["variable"] == SCORE, "model"]
    return str(
        table[table["model"].isin(own) | own.empty].groupby("model", sort=False).size().idxmax()
    )


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of the scale: all intervals, as far as they are worth it, and always one."""
    known = table[["ratio", "ci_low", "ci_high"]].to_numpy(dtype=np.float64).ravel()
    known = np.clip(known[np.isfinite(known)], 1 / _FARTHEST, _FARTHEST)
    low, high = min(known.min(initial=1), 0.75), max(known.max(initial=1), 1.33)
    return low / 1.1, high * 1.1


def _row(
    ax: Axes, i: int, row: dict[Any, Any], limits: tuple[float, float], *, hollow: bool
) -> None:
    """A ratio with its interval; an arrow where it goes on outside the axes."""
    color = _style.BLUE if row["variable"] == SCORE else _style.GREY
    if not np.isfinite(row["ratio"]):
        return
    low, high = (
        float(v) if np.isfinite(v) else edge
        for v, edge in zip((row["ci_low"], row["ci_high"]), limits, strict=True)
    )
    mean = row["ratio"] if limits[0] <= row["ratio"] <= limits[1] else np.nan
    _rows.interval(
        ax, i + _rows.ABOVE, mean, *np.clip([low, high], *limits), color=color, hollow=hollow
    )
    for value, edge, marker in ((low, limits[0], "<"), (high, limits[1], ">")):
        if (value < edge) if marker == "<" else (value > edge):
            ax.plot(edge, i, marker=marker, color=color, markersize=3.5, clip_on=False, zorder=4)


def _frame(ax: Axes, table: pd.DataFrame, limits: tuple[float, float], longest: int) -> None:
    """Names of the variables, once each, on a logarithmic scale."""
    ax.set_xscale("log")
    ax.set_xlim(limits)
    ticks = next(ticks for apart, ticks in _TICKS.items() if limits[1] / limits[0] <= apart)
    ax.xaxis.set_major_locator(
        FixedLocator([tick for tick in ticks if limits[0] <= tick <= limits[1]])
    )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    first = ~table["variable"].duplicated()
    daggers = _violated(table)
    names = [
        _label(name, longest, dagger=name in daggers) if shown else ""
        for name, shown in zip(table["variable"], first, strict=True)
    ]
    ax.set_yticks(range(len(table)), names)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.axvline(1, color=_style.GREY, linewidth=0.7, zorder=1)
    for i, variable in enumerate(first.cumsum()):
        score = table["variable"].iloc[i] == SCORE
        if score or variable % 2 == 0:
            color = _style.SKY if score else "black"
            ax.axhspan(
                i - 0.5,
                i + 0.5,
                facecolor=color,
                alpha=0.2 if score else 0.035,
                linewidth=0,
                zorder=0,
            )


def _label(name: str, longest: int, *, dagger: bool) -> str:
    said = "score (per SD)" if name == SCORE else _style.shortened(name, longest)
    return said + f" {_DAGGER}" * dagger


def _violated(table: pd.DataFrame) -> dict[str, float]:
    """Variables whose hazards are not proportional, with the smallest p."""
    wrong = table[table["ph_p"].astype(float) < _NOT_PROPORTIONAL]
    return {
        str(name): float(p)
        for name, p in wrong.groupby("variable", sort=False)["ph_p"].min().items()
    }


def _empirical(held: Any, models: list[str]) -> dict[str, pd.Series]:
    """The test against random sets of genes that belongs to each model."""
    tests = held.get("null_tests", pd.DataFrame())
    known = tests[tests["empirical_p"].notna()] if len(tests) else tests
    rows = {str(row["adjusted"]): row for _, row in known.iterrows()}
    return {model: rows[beside(model)] for model in models if beside(model) in rows}


def beside(model: str) -> str:
    """What a model holds beside the score, in the words of the test against random sets."""
    parts = [part for part in model.removesuffix(_COMPLETE).split(" + ") if part != SCORE]
    return " + ".join(parts) or "none"


def _texts(
    table: pd.DataFrame, measure: str, empirical: dict[str, pd.Series]
) -> dict[str, list[str]]:
    """What stands beside the rows."""
    rows = table[["ratio", "ci_low", "ci_high"]].to_numpy(dtype=np.float64)
    texts = {f"{measure} (95 % CI)": [_rows.with_interval(*row) for row in rows]}
    texts["p"] = [_rows.number(p) for p in table["p"]]
    if empirical and (table["variable"] == SCORE).any():
        scores = table["model"].where(table["variable"] == SCORE)
        found = [
            empirical[model]["empirical_p"] if model in empirical else np.nan for model in scores
        ]
        texts["p, random\ngene sets"] = [
            "" if isinstance(model, float) else _rows.number(p)
            for model, p in zip(scores, found, strict=True)
        ]
    return texts


def _title(table: pd.DataFrame, models: list[str]) -> str:
    """Models, patients and events."""
    lines = []
    for i, model in enumerate(models):
        row = table[table["model"] == model].iloc[0]
        mark = f"{'●○'[i]} " * (len(models) > 1)
        lines.append(
            f"{mark}{_style.shortened(model, 40)}: {int(row['n'])} patients, "
            f"{int(row['n_events'])} events"
        )
    return "\n".join(lines)


def _caption(table: pd.DataFrame) -> str:
    """What the dagger means."""
    wrong = _violated(table)
    named = ", ".join(
        f"{_style.shortened(name, 24)} {_rows.p_value(p)}" for name, p in wrong.items()
    )
    return (
        f"{_DAGGER} Hazards not proportional ({named}): the ratio is an average over time."
        if wrong
        else ""
    )
