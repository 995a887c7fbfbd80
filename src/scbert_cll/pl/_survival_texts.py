"""Texts of pl.survival: numbers at risk, the table of groups, the test and the caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory

from scbert_cll.pl import _rows, _style

LINE: Final = 9  # points between lines of the tables
# The darker of the colours first: the names of the groups are written in them
_COLORS: Final = [_style.PALETTE[i] for i in (0, 5, 2, 3, 1, 4)]
_MARGIN: Final = 28  # points that ticks and label of the y axis take
_LABEL: Final = 24  # points from the axes to the middle of their label
_CHARACTERS: Final = 20  # of a caption in an inch
_SAMPLES: Final = 200  # of a curve, to see whether a text would cover it
# of the test, the usual one first: where on the axes, and which of its own corners is there
_PLACES: Final = (
    (0.03, 0.04, "left", "bottom"),
    (0.98, 0.97, "right", "top"),
    (0.98, 0.04, "right", "bottom"),
    (0.03, 0.97, "left", "top"),
    (0.98, 0.50, "right", "center"),
    (0.03, 0.50, "left", "center"),
)
_ABOVE: Final = (0.03, 0.985, "left", "top")
_NOT_PROPORTIONAL: Final = 0.05
_NOT_REACHED: Final = "NR"
_UNSET: Final = (None, "", "none")
_MEDIAN: Final = ["median", "median_low", "median_high"]
_RATIO: Final = ["ratio", "ci_low", "ci_high"]


@dataclass(frozen=True)
class Groups:
    """Groups of patients as `tl.survival` wrote them, and what of them is drawn."""

    record: Mapping[str, Any]
    incidence: bool
    end: float  # of the time axis

    @property
    def curves(self) -> pd.DataFrame:
        """Kaplan–Meier steps of all groups."""
        curves: pd.DataFrame = self.record["curves"]
        return curves

    @property
    def table(self) -> pd.DataFrame:
        """A row for each group."""
        table: pd.DataFrame = self.record["groups"]
        return table

    @property
    def params(self) -> Mapping[str, Any]:
        """Arguments of the verb."""
        params: Mapping[str, Any] = self.record["params"]
        return params

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each group."""
        names = self.table["group"].astype(str)
        return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}

    @property
    def competing(self) -> Any:
        """Column of competing events; a word of `_UNSET` without."""
        return self.params.get("competing_key")

    @property
    def unit(self) -> str:
        """Unit of the times."""
        return str(self.params.get("time_unit", "years"))


def at_risk(curve: pd.DataFrame, times: pd.Series | np.ndarray) -> np.ndarray:
    """How many of a group are at risk just before each time; none before the first enters."""
    n_at_risk = np.append(curve["at_risk"].to_numpy(dtype=np.int64), 0)
    steps = curve["time"].to_numpy(dtype=np.float64)
    times = np.asarray(times, dtype=np.float64)
    entered = times >= steps.min(initial=np.inf)
    return np.where(entered, n_at_risk[np.searchsorted(steps, times)], 0)


def numbers_at_risk(ax: Axes, drawn: Groups) -> None:
    """Under each tick the patients at risk, a line per group."""
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    ax.set_xticks(ticks)
    longest = max(10, int(_style.width(ax) * 6))
    # next to the number under time 0, half of which hangs over
    left = -4 - 0.3 * _style.SMALL * len(str(drawn.curves["at_risk"].max()))
    look = {"ha": "right", "va": "center"}
    _style.note(ax, "at risk", (0, 0), (left, -_LABEL), color=_style.GREY, **look)
    for i, (name, color) in enumerate(drawn.colors.items()):
        down = -_LABEL - 2 - LINE * (i + 1)
        label = _style.shortened(name, longest)
        _style.note(ax, label, (0, 0), (left, down), color=color, **look)
        curve = drawn.curves[drawn.curves["group"].astype(str) == name]
        below: _style.Look = {"xycoords": ax.get_xaxis_transform(), "va": "center"}
        for tick, n in zip(ticks, at_risk(curve, np.array(ticks)), strict=True):
            _style.note(ax, f"{n}", (tick, 0), (0, down), ha="center", **below)


def group_table(ax: Axes, drawn: Groups, *, new: bool) -> None:
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
    longest = int(np.clip(room * 72 / (0.57 * _style.SMALL) - sum(widths) - 6, 8, 30))
    names = [_style.shortened(name, longest) for name in drawn.colors]
    colors = list(drawn.colors.values())
    lines = ["━━"] * len(names)
    packed: list[Artist] = [_column("", cells, colors) for cells in (lines, names)]
    packed += [_column(header, cells) for header, cells in columns.items()]
    start = fig.transFigure if new else ax.transAxes
    across = blended_transform_factory(start, ax.transAxes)
    left = (4 if new else -_MARGIN) / 72
    moved = across + ScaledTranslation(left, 4 / 72, fig.dpi_scale_trans)
    place: _style.Look = {"bbox_to_anchor": (0, 1), "bbox_transform": moved}
    place |= {"pad": 0, "borderpad": 0, "frameon": False}
    child = HPacker(children=packed, sep=7, pad=0, align="bottom")
    ax.add_artist(AnchoredOffsetbox("lower left", child=child, **place))


def _column(header: str, cells: list[str], colors: list[str] | None = None) -> VPacker:
    """Texts under each other."""
    looks = [_style.GREY, *(colors or ["black"] * len(cells))]
    texts: list[Artist] = [
        TextArea(text, textprops={"fontsize": _style.SMALL, "color": look})
        for text, look in zip([header or " ", *cells], looks, strict=True)
    ]
    return VPacker(children=texts, sep=1.5, pad=0, align="center" if header else "left")


def _median(times: np.ndarray) -> str:
    """A median time with its interval, as far as they are reached."""
    texts = [f"{time:.1f}" if np.isfinite(time) else _NOT_REACHED for time in times]
    return "{} ({}–{})".format(*texts) if np.isfinite(times).any() else _NOT_REACHED


def result(entry: Mapping[str, Any], drawn: Groups) -> str:
    """The test of the groups, of a signature's groups with that against random sets of genes."""
    lines, groups = [], drawn.table
    if len(groups) == 2:
        ratio = groups.iloc[1][_RATIO].to_numpy(dtype=np.float64)
        estimable = np.isfinite(ratio).all() and groups["n_events"].min() > 0
        text = _rows.with_interval(*ratio) if estimable else "a group has no events"
        lines.append(f"hazard ratio{'' if estimable else ':'} {text}")
    p = float(drawn.record["logrank"]["p"])
    cause = "cause-specific " * (drawn.competing not in _UNSET)
    test = f"{cause}log-rank {_rows.p_value(p)}"
    lines.append(test if np.isfinite(p) else "log-rank test: undefined")
    if "curves" in entry:  # of groups that are no signature's
        return "\n".join(lines)
    tests = entry.get("null_tests", pd.DataFrame({"empirical_p": []})).dropna(subset="empirical_p")
    if tests.empty:
        return "\n".join([*lines, "not compared with random gene sets"])
    alone = tests.iloc[int(np.argmax(tests["adjusted"] == "none"))]  # as the groups are
    against = f"against random gene sets {_rows.p_value(alone['empirical_p'])}"
    usual = f"({100 * alone['share_significant']:.0f} % of these have p < 0.05)"
    return "\n".join([*lines, against, usual])


def caption(ax: Axes, drawn: Groups, n_lines: int, *, new: bool) -> None:
    """What is not seen in the curves; in the user's axes as wide as these."""
    text = " ".join(_sentences(drawn))
    if new:
        fig = _style.figure_of(ax)
        text = _style.broken(text, fig.get_figwidth() * _CHARACTERS)
        fig.supxlabel(text, fontsize=_style.SMALL, color=_style.GREY)
        return
    text = _style.broken(text, (_style.width(ax) + _MARGIN / 72) * _CHARACTERS)
    below = (-_MARGIN, -_LABEL - 8 - LINE * n_lines)
    _style.note(ax, text, (0, 0), below, color=_style.GREY, va="top")


def _sentences(drawn: Groups) -> list[str]:
    """What a reader has to know, and what is left out."""
    table, competing = drawn.table, drawn.competing
    ticks = "" if drawn.incidence else "; ticks: censored patients"
    texts = [f"Bands: 95 % intervals{ticks}."]
    if competing not in _UNSET:
        dashed = f"Dashed: {competing} (competing)."
        texts.append(dashed if drawn.incidence else f"{competing} counts as censored.")
    if drawn.params.get("entry_key") not in _UNSET:
        texts.append("Patients count from their entry on.")
    if not drawn.incidence and table[_MEDIAN].isna().to_numpy().any():
        texts.append(f"{_NOT_REACHED}: not reached.")
    if "ph_p" in table and (table["ph_p"] < _NOT_PROPORTIONAL).any():
        texts.append("The hazard ratio changes with time: an average.")
    later = int(drawn.curves.loc[drawn.curves["time"] > drawn.end, "n_events"].sum())
    if later:
        texts.append(f"{later} event{'s' * (later != 1)} later, when few are at risk.")
    flow = drawn.record.get("flow")
    if flow is not None and (lost := int(flow["n"].iloc[0] - table["n"].sum())):
        texts.append(f"{lost} patient{'s' * (lost != 1)} left out (see flow).")
    return texts


def test(ax: Axes, text: str, steps: Mapping[str, pd.DataFrame]) -> None:
    """Write the test in the corner where it covers least of the curves."""
    _style.lay_out(ax)  # with the tables
    curves = [part for table in steps.values() for _, part in table.groupby("group")]
    points = ax.transData.transform(np.concatenate([_path(curve, ax) for curve in curves]))
    look: _style.Look = {"fontsize": _style.SMALL, "linespacing": 1.25, "zorder": 5}
    written = ax.text(0, 0, text, transform=ax.transAxes, **look)
    written.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1})
    covered = []
    for place in _PLACES:
        _put(written, *place)
        covered.append(int(Bbox(written.get_window_extent()).count_contains(points)))
    _put(written, *_PLACES[int(np.argmin(covered))])
    if min(covered) and len(steps) > 1:
        # incidences end anywhere below 100 %, so there can be room above them
        extent = written.get_window_extent().height / ax.get_window_extent().height
        ax.set_ylim(top=ax.get_ylim()[1] / (1 - extent - 0.06))
        _put(written, *_ABOVE)


def _put(text: Text, x: float, y: float, ha: str, va: str) -> None:
    text.set(position=(x, y), ha=ha, va=va)


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
