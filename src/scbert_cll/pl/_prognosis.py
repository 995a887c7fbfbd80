"""pl.forest and pl.prognosis_null: ratios of each variable, and those of random sets of genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record, get
from scbert_cll.pl import _rows, _style

type _Ends = tuple[float, float]  # of the scale of ratios

SCORE: Final = "score"
_BOTH: Final = "clinical + score"
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
_RATIO: Final = ["ratio", "ci_low", "ci_high"]
_DAGGER: Final = "†"
_MOST: Final = 2
_NAIVE: Final = 1.96  # |z| from which a p is below 0.05
_BINS: Final = 30
_UNADJUSTED: Final = "none"


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
    """Draw the hazard ratios of a Cox model with their 95 % intervals.

    Where there are no times, odds ratios. A row per variable on a logarithmic scale, the score of
    the signature on top and in colour. Next to its p stands that against random sets of genes (with
    the same covariates), where there is one. With two models, as ``["score", "clinical + score"]``,
    the second is hollow: what is left of the score given the covariates.

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
    everything = get.prognosis(adata, "cox", key=key)
    rows = get.prognosis(adata, "cox", key=key, model=model)
    models = _record.named(model or _fullest(everything), rows["model"], "")
    if len(models) > _MOST:
        raise ValueError(
            f"model must name one or two models; found {len(models)}: more cannot be told apart "
            "in a row."
        )
    table, record = _sorted(rows[rows["model"].isin(models)], models), adata.uns[key]
    new, size = ax is None, (4.6, 1.3 + _rows.ROW * max(len(table), 3))
    [ax] = _style.panels(ax, figsize, size)
    limits, models = _limits(table), list(dict.fromkeys(table["model"]))
    for i, row in enumerate(table.to_dict("records")):
        _row(ax, i, row, limits, hollow=row["model"] != models[0])
    measure = str(record["params"].get("measure", "HR"))
    tests = record.get("null_tests", pd.DataFrame())
    texts = _texts(table, measure, _empirical(tests, models))
    _frame(ax, table, limits, _rows.longest_name(ax, texts, new=new))
    ax.set_xlabel(f"{_MEASURES.get(measure, measure)} (log scale)")
    _rows.columns(ax, texts)
    _rows.captions(ax, _title(table, models), _caption(table), new=new)
    return ax


def _sorted(rows: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """The score first, then as in the largest of the models, each variable once per model."""
    largest = rows["model"].value_counts().index[0]
    of_largest = rows.loc[rows["model"] == largest, "variable"]
    variables = [SCORE, *of_largest, *rows["variable"]]
    place = {name: i for i, name in enumerate(dict.fromkeys(variables))}
    by = [rows["variable"].map(place), rows["model"].map(models.index)]
    return rows.iloc[np.lexsort(by[::-1])].reset_index(drop=True)


def _fullest(table: pd.DataFrame) -> str:
    """The score beside the clinical covariates.

    Else the first of the models with most variables, with the score where there is one.
    """
    if _BOTH in set(table["model"]):
        return _BOTH
    with_score = table.loc[table["variable"] == SCORE, "model"]
    rows = table[table["model"].isin(with_score) | with_score.empty]
    return str(rows.groupby("model", sort=False).size().idxmax())


def _limits(table: pd.DataFrame) -> _Ends:
    """Limits of the scale: all intervals, as far as they are worth it, and always one."""
    ratios = table[_RATIO].to_numpy(dtype=np.float64).ravel()
    ratios = np.clip(ratios[np.isfinite(ratios)], 1 / _FARTHEST, _FARTHEST)
    low, high = min(ratios.min(initial=1), 0.75), max(ratios.max(initial=1), 1.33)
    return low / 1.1, high * 1.1


def _row(ax: Axes, i: int, row: dict[Any, Any], limits: _Ends, *, hollow: bool) -> None:
    """A ratio with its interval; an arrow where it goes on outside the axes."""
    color = _style.BLUE if row["variable"] == SCORE else _style.GREY
    ratio, *ends = (float(row[name]) for name in _RATIO)
    if not np.isfinite(ratio):
        return
    low, high = np.where(np.isfinite(ends), ends, limits)
    mean = ratio if limits[0] <= ratio <= limits[1] else np.nan
    within = np.clip([low, high], *limits)
    _rows.interval(ax, i + _rows.ABOVE, mean, *within, color=color, hollow=hollow)
    look: _style.Look = {"ms": 3.5, "clip_on": False, "zorder": 4}
    for goes_on, end, marker in ((low < limits[0], 0, "<"), (high > limits[1], 1, ">")):
        if goes_on:
            ax.plot(limits[end], i, marker, color=color, **look)


def _frame(ax: Axes, table: pd.DataFrame, limits: _Ends, longest: int) -> None:
    """Names of the variables, once each, on a logarithmic scale."""
    ax.set_xscale("log")
    ax.set_xlim(limits)
    ratio = limits[1] / limits[0]
    ticks = next(ticks for apart, ticks in _TICKS.items() if ratio <= apart)
    ax.set_xticks([tick for tick in ticks if limits[0] <= tick <= limits[1]])
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    first, violated = ~table["variable"].duplicated(), _violated(table)
    names = []
    for name, shown in zip(table["variable"], first, strict=True):
        label = "score (per SD)" if name == SCORE else _style.shortened(name, longest)
        names.append((label + f" {_DAGGER}" * (name in violated)) * shown)
    _style.name_rows(ax, names)
    ax.axvline(1, color=_style.GREY, linewidth=0.7, zorder=1)
    numbered = zip(table["variable"], first.cumsum(), strict=True)
    for i, (name, number) in enumerate(numbered):
        if name == SCORE:
            _rows.stripe(ax, i, _style.SKY, 0.2)
        elif number % 2 == 0:
            _rows.stripe(ax, i)


def _violated(table: pd.DataFrame) -> dict[str, float]:
    """Variables whose hazards are not proportional, with the smallest p."""
    rows = table[table["ph_p"].astype(float) < _NOT_PROPORTIONAL]
    smallest = rows.groupby("variable", sort=False)["ph_p"].min()
    return {str(name): float(p) for name, p in smallest.items()}


def _empirical(tests: pd.DataFrame, models: list[str]) -> dict[str, float]:
    """The p against random sets of genes that belongs to each model."""
    if tests.empty:
        return {}
    p = tests.set_index("adjusted")["empirical_p"].dropna().to_dict()
    return {model: p[adjustment(model)] for model in models if adjustment(model) in p}


def adjustment(model: str) -> str:
    """What a model holds besides the score, in the words of the test against random sets."""
    terms = model.removesuffix(_COMPLETE).split(" + ")
    return " + ".join(term for term in terms if term != SCORE) or "none"


def _texts(table: pd.DataFrame, measure: str, random: dict[str, float]) -> _rows.Texts:
    """Columns to the right of the rows."""
    ratios = table[_RATIO].to_numpy(dtype=np.float64)
    texts = {f"{measure} (95 % CI)": [_rows.with_interval(*ratio) for ratio in ratios]}
    texts["p"] = [_rows.number(p) for p in table["p"]]
    is_score = table["variable"] == SCORE
    if random and is_score.any():
        texts["p, random\ngene sets"] = [
            _rows.number(random.get(model, np.nan)) if score else ""
            for model, score in zip(table["model"], is_score, strict=True)
        ]
    return texts


def _title(table: pd.DataFrame, models: list[str]) -> str:
    """Models, patients and events."""
    lines = []
    for mark, model in zip("●○", models, strict=False):
        row = table[table["model"] == model].iloc[0]
        numbers = f"{int(row['n'])} patients, {int(row['n_events'])} events"
        marked = f"{mark} " * (len(models) > 1) + _style.shortened(model, 40)
        lines.append(f"{marked}: {numbers}")
    return "\n".join(lines)


def _caption(table: pd.DataFrame) -> str:
    """What the dagger means."""
    violated = _violated(table).items()
    if not violated:
        return ""
    names = [f"{_style.shortened(v, 24)} {_rows.p_value(p)}" for v, p in violated]
    proportional = f"Hazards not proportional ({', '.join(names)})"
    return f"{_DAGGER} {proportional}: the ratio is an average over time."


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
        panel.set_title(_adjustment_title(name, test), loc="left", fontsize=7)
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
    area = len(sets) * (bins[1] - bins[0])
    expected = area * np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
    dashed: _style.Look = {"color": _style.GREY, "linewidth": 0.9, "linestyle": "--"}
    ax.plot(x, expected, label="if no gene mattered", **dashed)
    ax.axvline(_NAIVE, color=_style.GREY, linewidth=0.7, linestyle=":")
    ax.axvline(observed, color=_style.BLUE, linewidth=1.5, label="signature")
    ax.set_xlim(0, end)


def _edges(end: float, n: int) -> list[float]:
    """Bins of one width, fewer of few sets, with an edge where p is 0.05."""
    width = _NAIVE / max(2, round(min(_BINS, 1.2 * np.sqrt(n)) * _NAIVE / end))
    return [width * i for i in range(int(np.ceil(end / width)) + 1)]


def _adjustment_title(name: str, test: pd.Series) -> str:
    """The adjustment, both p, and how usual a small one is."""
    naive, empirical = (_rows.p_value(test[p]) for p in ("naive_p", "empirical_p"))
    adjusted = f"adjusted: {_style.shortened(name, 30)}"
    return (
        f"{'not adjusted' if name == _UNADJUSTED else adjusted}\n"
        f"naive {naive}, empirical {empirical}\n"
        f"{100 * test['share_significant']:.0f} % of {int(test['n_sets']):,} random sets have "
        "p < 0.05"
    )
