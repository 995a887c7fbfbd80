"""pl.survival: how many patients are without the event, and how many are at risk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory

from scbert_cll import _keys
from scbert_cll._checks.words import key_in, number_in
from scbert_cll._survival.units import Unit, in_unit
from scbert_cll.get._prognosis import patient_groups
from scbert_cll.pl import _rows, _style
from scbert_cll.pl._style import GREY, SMALL

_SHARE_AT_RISK, _AT_RISK = 0.1, 5  # below these a curve says little
_LINE: Final = 9  # points between lines of the tables
# The darker of the colours first: the names of the groups are written in them
_COLORS: Final = [_style.PALETTE[i] for i in (0, 5, 2, 3, 1, 4)]
_MARGIN: Final = 28  # points that ticks and label of the y axis take
_LABEL: Final = 24  # points from the axes to the middle of their label
_CHARACTERS: Final = 20  # of a caption in an inch
_SAMPLES: Final = 200  # of a curve, to see whether a text would cover it
# of the test, the usual one first: where on the axes, and which of its own corners is there
_PLACES: Final = (
    {"x": 0.03, "y": 0.04, "ha": "left", "va": "bottom"},
    {"x": 0.98, "y": 0.97, "ha": "right", "va": "top"},
    {"x": 0.98, "y": 0.04, "ha": "right", "va": "bottom"},
    {"x": 0.03, "y": 0.97, "ha": "left", "va": "top"},
    {"x": 0.98, "y": 0.50, "ha": "right", "va": "center"},
    {"x": 0.03, "y": 0.50, "ha": "left", "va": "center"},
)
_ABOVE: Final = {"x": 0.03, "y": 0.985, "ha": "left", "va": "top"}
_NOT_PROPORTIONAL: Final = 0.05
_NOT_REACHED: Final = "NR"
_MEDIAN: Final = ["median", "median_low", "median_high"]
_RATIO: Final = ["ratio", "ci_low", "ci_high"]


@dataclass(frozen=True)
class _Groups:
    """Groups of patients as `tl.survival` wrote them, and what of them is drawn."""

    record: Mapping[str, Any]
    incidence: bool
    end: float  # of the time axis

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Kaplan–Meier steps of each group."""
        table: pd.DataFrame = self.record["curves"]
        name = table["group"].astype(str)
        return {group: table[name == group] for group in self.colors}

    @property
    def table(self) -> pd.DataFrame:
        """A row for each group."""
        return pd.DataFrame(self.record["groups"])

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each group."""
        names = self.table["group"].astype(str)
        return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}

    def param(self, name: str, default: str = "") -> str:
        """An argument of the verb; empty for none."""
        value = self.record["params"].get(name)
        return default if value in (None, "", "none") else str(value)

    @property
    def unit(self) -> str:
        """Unit of the times."""
        return self.param("time_unit", "years")


@_style.plot
def survival(
    adata: AnnData,
    *,
    key: str = _keys.SURVIVAL,
    incidence: bool = False,
    at_risk: bool = True,
    time_unit: Unit | None = None,
    max_time: float | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the share of patients without the event over time, by group (Kaplan–Meier).

    With 95 % intervals, a tick where patients are censored, and under the axis how many are at
    risk. Above it stand events, patients and median of each group; in the plot the log-rank test
    and, of two groups, the hazard ratio of the second against the first (of more groups it stands
    above). Curves end where less than 10 % of the patients or fewer than 5 are at risk, since what
    follows hangs on a few of them; events after that are counted.

    Where groups were cut out of a signature's score (``key="prognosis"``), p stands beside that
    against random sets of genes: where most of those divide patients, too, a small p alone says
    nothing of the signature.

    Parameters
    ----------
    adata
        Patients × genes after :func:`scbert_cll.tl.survival` or :func:`scbert_cll.tl.prognosis`.
    key
        Name under which it was written; ``"prognosis"`` for the groups of ``tl.prognosis``.
    incidence
        Draw the share with the event instead, and dashed the share with the competing one
        (Aalen–Johansen), without medians. Test and hazard ratio stay cause-specific: competing
        events are censored in them.
    at_risk
        Write numbers at risk under the axis.
    time_unit
        Unit to draw in: ``"years"``, ``"months"`` or ``"days"``; times and medians are converted.
        By default as in the result.
    max_time
        Where the curves end, in units of time. By default as above.
    %(figsize)s
    ax
        Axes to draw in. The tables stand around them: let the figure make room, e.g. by
        ``plt.subplots(layout="constrained")``.
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such result, or there are no competing events in it.
    ValueError
        `max_time` is not above 0, or there is no such unit.

    Notes
    -----
    Where a plot should end, and that it shows numbers at risk and intervals: Pocock, Clayton &
    Altman 2002 (doi:10.1016/S0140-6736(02)08594-X).
    """
    record = in_unit(patient_groups(adata, key), time_unit)
    if incidence:
        remedy = "Run tl.survival with competing_key= for it."
        key_in("incidence", record, f"adata.uns[{key!r}]", remedy)
    end = _end(record["curves"]) if max_time is None else max_time
    number_in(end, "max_time", np.nextafter(0, 1), np.inf)
    drawn = _Groups(record, incidence, float(end))
    new, size = ax is None, (3.5, 2.75 + _LINE / 72 * len(drawn.colors) * (1 + at_risk))
    [ax] = _style.panels(ax, figsize, size)
    steps = _steps(drawn)
    for name, color in drawn.colors.items():
        for way, table in steps.items():
            _curve(ax, table[table["group"].astype(str) == name], way, color)
    _frame(ax, drawn, steps)
    if at_risk:
        _numbers_at_risk(ax, drawn)
    _group_table(ax, drawn, new=new)
    _caption(ax, drawn, len(drawn.colors) * at_risk, new=new)
    _test(ax, _result(adata.uns[key], drawn), steps)
    return ax


def _end(curves: pd.DataFrame) -> float:
    """Last time at which enough patients are at risk, of all groups together."""
    by_group = curves.groupby("group")
    at_risk = sum(_n_at_risk(part, curves["time"]) for _, part in by_group)
    times = curves["time"].to_numpy(dtype=np.float64)
    most = np.max(at_risk)
    enough = at_risk >= max(_SHARE_AT_RISK * most, min(_AT_RISK, most / 4))
    last = times[enough & (times > 0)].max(initial=0)
    return float(last or times.max() or 1)


def _steps(drawn: _Groups) -> dict[str, pd.DataFrame]:
    """What is drawn solid and, of competing events, dashed.

    Group, time, value, interval and number censored.
    """
    curves: pd.DataFrame = drawn.record["curves"]
    if not drawn.incidence:
        return {"solid": curves.rename(columns={"survival": "value"})}
    table = drawn.record["incidence"].rename(columns={"incidence": "value"})
    # a curve goes on, level, for as long as the group is followed
    last = table.groupby(["group", "cause"], sort=False).tail(1)
    followed = curves.groupby("group")["time"].max()
    last = last.assign(time=last["group"].map(followed).astype(np.float64))
    table = pd.concat([table, last], ignore_index=True).assign(n_censored=0)
    ways = {"solid": "event", "dashed": "competing"}
    return {way: table[table["cause"] == cause] for way, cause in ways.items()}


def _curve(ax: Axes, table: pd.DataFrame, way: str, color: str) -> None:
    """A group's steps with their interval, and ticks where patients are censored."""
    time, value = table["time"].to_numpy(), 100 * table["value"].to_numpy()
    ax.plot(time, value, color=color, ds="steps-post", ls=way, lw=1.2, zorder=3)
    if way == "dashed":
        return  # nobody could tell a second band from the first
    low, high = 100 * table[["ci_low", "ci_high"]].to_numpy(dtype=np.float64).T
    look: _style.Look = {"step": "post", "alpha": 0.13, "lw": 0, "zorder": 1}
    ax.fill_between(time, low, high, color=color, **look)
    censored = table["n_censored"].to_numpy() > 0
    x, y = time[censored], value[censored]
    ax.plot(x, y, ls="none", marker="|", ms=3.5, mew=0.6, color=color, zorder=4)


def _frame(ax: Axes, drawn: _Groups, steps: Mapping[str, pd.DataFrame]) -> None:
    """Limits and words of the axes."""
    top = 100.0
    if drawn.incidence:
        rows = pd.concat(steps.values())
        largest = rows.loc[rows["time"] <= drawn.end, "ci_high"].max()
        top = float(np.fmin(100.0, 10 * np.ceil(10 * largest + 0.2)))
    ax.set(xlim=(0, drawn.end), ylim=(0, top * 1.02))
    by_month = [1.2, 2.4, 3.6, 6, 10] if drawn.unit == "months" else [1, 2, 2.5, 5, 10]
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=by_month))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    names = map(drawn.param, ("time_key", "event_key"))
    time, event = map(_style.shortened, names)
    ax.set_xlabel(f"{time}, {drawn.unit}".removeprefix(", "))
    of = "with" if drawn.incidence else "without"
    ax.set_ylabel(f"{of} event{f' ({event})' if event else ''}, %")


def _n_at_risk(curve: pd.DataFrame, times: pd.Series | np.ndarray) -> np.ndarray:
    """How many of a group are at risk just before each time; none before the first enters."""
    n_at_risk = np.append(curve["at_risk"].to_numpy(dtype=np.int64), 0)
    steps = curve["time"].to_numpy(dtype=np.float64)
    times = np.asarray(times, dtype=np.float64)
    entered = times >= steps.min(initial=np.inf)
    return np.where(entered, n_at_risk[np.searchsorted(steps, times)], 0)


def _numbers_at_risk(ax: Axes, drawn: _Groups) -> None:
    """Under each tick the patients at risk, a line per group."""
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    ax.set_xticks(ticks)
    longest = max(10, int(_style.width(ax) * 6))
    # next to the number under time 0, half of which hangs over
    left = -4 - 0.3 * SMALL * len(str(drawn.record["curves"]["at_risk"].max()))
    lines, below = [("at risk", GREY, -_LABEL)], ax.get_xaxis_transform()
    for i, (name, color) in enumerate(drawn.colors.items()):
        down = -_LABEL - 2 - _LINE * (i + 1)
        lines.append((_style.shortened(name, longest), color, down))
        numbers = _n_at_risk(drawn.curves[name], np.array(ticks))
        for tick, n in zip(ticks, numbers, strict=True):
            at = {"ha": "center", "va": "center", "xycoords": below}
            _style.note(ax, f"{n}", (tick, 0), (0, down), **at)
    look: _style.Look = {"ha": "right", "va": "center"}
    for text, color, down in lines:
        _style.note(ax, text, (0, 0), (left, down), color=color, **look)


def _group_table(ax: Axes, drawn: _Groups, *, new: bool) -> None:
    """Above the axes a line per group: line, name, events, median, of more than two the ratio."""
    table = drawn.table
    columns = {"events/patients": [f"{r.n_events}/{r.n}" for r in table.itertuples()]}
    if not drawn.incidence:  # medians take competing events for censoring
        rows = table[_MEDIAN].to_numpy(dtype=np.float64)
        columns[f"median ({drawn.unit})"] = [_median(row) for row in rows]
    if len(table) > 2:
        ratios = table[_RATIO].to_numpy(dtype=np.float64)[1:]
        columns["hazard ratio"] = ["1", *(_rows.with_interval(*row) for row in ratios)]
    fig = _style.figure_of(ax)
    room = fig.get_figwidth() - 0.1 if new else _style.width(ax) + _MARGIN / 72
    widths = [max(map(len, (name, *cells))) + 2 for name, cells in columns.items()]
    longest = int(np.clip(room * 72 / (0.57 * SMALL) - sum(widths) - 6, 8, 30))
    names = [_style.shortened(name, longest) for name in drawn.colors]
    colors = list(drawn.colors.values())
    lines = ["━━"] * len(names)
    packed = [_column("", cells, colors) for cells in (lines, names)]
    packed += [_column(header, cells) for header, cells in columns.items()]
    start = fig.transFigure if new else ax.transAxes
    across = blended_transform_factory(start, ax.transAxes)
    left = (4 if new else -_MARGIN) / 72
    moved = across + ScaledTranslation(left, 4 / 72, fig.dpi_scale_trans)
    child = HPacker(children=[*packed], sep=7, pad=0, align="bottom")
    look: _style.Look = {"pad": 0, "borderpad": 0, "frameon": False}
    look |= {"bbox_to_anchor": (0, 1), "bbox_transform": moved}
    ax.add_artist(AnchoredOffsetbox("lower left", child=child, **look))


def _column(header: str, cells: list[str], colors: list[str] | None = None) -> VPacker:
    """Texts under each other."""
    looks = [GREY, *(colors or ["black"] * len(cells))]
    texts = [
        TextArea(text, textprops={"fontsize": SMALL, "color": look})
        for text, look in zip([header or " ", *cells], looks, strict=True)
    ]
    return VPacker(children=[*texts], sep=1.5, align="center" if header else "left")


def _median(times: np.ndarray) -> str:
    """A median time with its interval, as far as they are reached."""
    texts = [f"{time:.1f}" if np.isfinite(time) else _NOT_REACHED for time in times]
    return "{} ({}–{})".format(*texts) if np.isfinite(times).any() else _NOT_REACHED


def _result(entry: Mapping[str, Any], drawn: _Groups) -> str:
    """The test of the groups, of a signature's groups with that against random sets of genes."""
    lines, groups = [], drawn.table
    if len(groups) == 2:
        ratio = groups.iloc[1][_RATIO].to_numpy(dtype=np.float64)
        estimable = np.isfinite(ratio).all() and groups["n_events"].min() > 0
        text = _rows.with_interval(*ratio) if estimable else "a group has no events"
        lines.append(f"hazard ratio{'' if estimable else ':'} {text}")
    p = float(drawn.record["logrank"]["p"])
    cause = "cause-specific " * bool(drawn.param("competing_key"))
    test = f"{cause}log-rank {_rows.p_value(p)}"
    lines.append(test if np.isfinite(p) else "log-rank test: undefined")
    if "curves" in entry:  # of groups that are no signature's
        return "\n".join(lines)
    none = pd.DataFrame({"empirical_p": []})
    tests = entry.get("null_tests", none).dropna(subset="empirical_p")
    if tests.empty:
        return "\n".join([*lines, "not compared with random gene sets"])
    alone = tests.iloc[int(np.argmax(tests["adjusted"] == "none"))]  # as the groups are
    against = f"against random gene sets {_rows.p_value(alone['empirical_p'])}"
    usual = f"({100 * alone['share_significant']:.0f} % of these have p < 0.05)"
    return "\n".join([*lines, against, usual])


def _caption(ax: Axes, drawn: _Groups, n_lines: int, *, new: bool) -> None:
    """What is not seen in the curves; in the user's axes as wide as these."""
    text = " ".join(_sentences(drawn))
    if new:
        fig = _style.figure_of(ax)
        text = _style.broken(text, fig.get_figwidth() * _CHARACTERS)
        fig.supxlabel(text, fontsize=SMALL, color=GREY)
        return
    text = _style.broken(text, (_style.width(ax) + _MARGIN / 72) * _CHARACTERS)
    below = (-_MARGIN, -_LABEL - 8 - _LINE * n_lines)
    _style.note(ax, text, (0, 0), below, color=GREY, va="top")


def _sentences(drawn: _Groups) -> list[str]:
    """What a reader has to know, and what is left out."""
    table, competing = drawn.table, drawn.param("competing_key")
    ticks = "" if drawn.incidence else "; ticks: censored patients"
    texts = [f"Bands: 95 % intervals{ticks}."]
    if competing:
        dashed = f"Dashed: {competing} (competing)."
        texts.append(dashed if drawn.incidence else f"{competing} counts as censored.")
    if drawn.param("entry_key"):
        texts.append("Patients count from their entry on.")
    if not drawn.incidence and table[_MEDIAN].isna().to_numpy().any():
        texts.append(f"{_NOT_REACHED}: not reached.")
    if "ph_p" in table and (table["ph_p"] < _NOT_PROPORTIONAL).any():
        texts.append("The hazard ratio changes with time: an average.")
    curves: pd.DataFrame = drawn.record["curves"]
    if later := int(curves.loc[curves["time"] > drawn.end, "n_events"].sum()):
        texts.append(f"{later} event{'s' * (later != 1)} later, when few are at risk.")
    flow = drawn.record.get("flow")
    if flow is not None and (lost := int(flow["n"].iloc[0] - table["n"].sum())):
        texts.append(f"{lost} patient{'s' * (lost != 1)} left out (see flow).")
    return texts


def _test(ax: Axes, text: str, steps: Mapping[str, pd.DataFrame]) -> None:
    """Write the test in the corner where it covers least of the curves."""
    _style.lay_out(ax)  # with the tables
    curves = [part for table in steps.values() for _, part in table.groupby("group")]
    paths = [_path(curve, ax) for curve in curves]
    points = ax.transData.transform(np.concatenate(paths))
    written = ax.text(0, 0, text, fontsize=SMALL, transform=ax.transAxes, zorder=5)
    written.set_linespacing(1.25)
    written.set_bbox(_style.WHITE | {"alpha": 0.7, "pad": 1})
    covered = []
    for place in _PLACES:
        written.set(**place)
        covered.append(int(Bbox(written.get_window_extent()).count_contains(points)))
    written.set(**_PLACES[int(np.argmin(covered))])
    if min(covered) and len(steps) > 1:
        # incidences end anywhere below 100 %, so there can be room above them
        extent = written.get_window_extent().height / ax.get_window_extent().height
        ax.set_ylim(top=ax.get_ylim()[1] / (1 - extent - 0.06))
        written.set(**_ABOVE)


def _path(curve: pd.DataFrame, ax: Axes) -> np.ndarray:
    """Points along a group's steps, and along its interval, within the axes."""
    x = np.linspace(*ax.get_xlim(), _SAMPLES)
    time = curve["time"].to_numpy(dtype=np.float64)
    at = np.clip(np.searchsorted(time, x, side="right") - 1, 0, None)
    inside = x <= time.max(initial=0)
    paths = []
    for name in ("value", "value", "ci_low", "ci_high"):  # the steps weigh twice
        y = 100 * curve[name].to_numpy(dtype=np.float64)[at]
        paths.append(np.column_stack([x, y])[inside & np.isfinite(y)])
    return np.concatenate(paths)
