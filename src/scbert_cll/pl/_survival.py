"""pl.survival: how many patients are without the event, and how many of them are still looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation, blended_transform_factory

from scbert_cll import _keys
from scbert_cll._checks.words import key_in, number_in
from scbert_cll._survival.units import Unit, in_unit
from scbert_cll.get._survival import patient_groups as record
from scbert_cll.pl import _rows, _style

# The darker of the colours first: the names of the groups are written in them
_COLORS: Final = (_style.BLUE, _style.RED, _style.GREEN, _style.PURPLE, _style.ORANGE, _style.SKY)
_SHARE_AT_RISK, _AT_RISK = 0.1, 5  # below these a curve says little
_SMALL: Final = _rows.SMALL
_LINE: Final = 9  # points between lines of the tables
_MARGIN: Final = 28  # points that ticks and label of the y axis take
_TICKS, _LABEL = (
    16,
    24,
)  # points from the axes to below the ticks' labels, and to the middle of the axis label
_SAMPLES: Final = 200  # places at which a curve is looked at for whether a text would cover it
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
    held = in_unit(record(adata, key), time_unit)
    if incidence:
        key_in(
            "incidence", held, f"adata.uns[{key!r}]", "Run tl.survival with competing_key= for it."
        )
    colors = {
        name: _COLORS[i % len(_COLORS)]
        for i, name in enumerate(held["groups"]["group"].astype(str))
    }
    end = _end(held["curves"]) if max_time is None else _positive(max_time)
    size = figsize or (3.5, 2.75 + _LINE / 72 * len(colors) * (1 + at_risk))
    own, (fig, ax) = ax is None, _style.one(ax, size)
    curves = _steps(held, incidence=incidence)
    for name, color in colors.items():
        _curve(
            ax,
            {way: steps[steps["group"].astype(str) == name] for way, steps in curves.items()},
            color,
        )
    _frame(ax, held, curves, end, incidence=incidence)
    if at_risk:
        _numbers_at_risk(ax, held["curves"], colors)
    # medians are of Kaplan–Meier curves, which take competing events for censoring
    _group_table(ax, held["groups"], colors, "" if incidence else _unit(held), own=own)
    _captions(fig, ax, _caption(held, end, incidence=incidence), len(colors) * at_risk, own=own)
    _test(fig, ax, _said(adata, key, held), curves)
    return _style.finish(fig, ax, show=show, return_fig=return_fig)


def _positive(max_time: float) -> float:
    number_in(max_time, "max_time", np.nextafter(0, 1), np.inf)
    return float(max_time)


def _end(curves: pd.DataFrame) -> float:
    """Last time at which enough patients are at risk, of all groups together."""
    at_risk = pd.DataFrame(
        {name: _at(part, curves["time"]) for name, part in curves.groupby("group")}
    ).sum(axis=1)
    times = curves["time"].to_numpy(dtype=np.float64)
    most = at_risk.max()
    enough = at_risk.to_numpy() >= max(_SHARE_AT_RISK * most, min(_AT_RISK, most / 4))
    last = times[enough & (times > 0)].max(initial=0)
    return float(last or times.max() or 1)


def _at(curve: pd.DataFrame, times: pd.Series | np.ndarray) -> np.ndarray:
    """How many of a group are at risk just before each time; none before the first enters."""
    known, when = (
        np.append(curve["at_risk"].to_numpy(dtype=np.int64), 0),
        curve["time"].to_numpy(dtype=np.float64),
    )
    asked = np.asarray(times, dtype=np.float64)
    return np.where(asked < when.min(initial=np.inf), 0, known[np.searchsorted(when, asked)])


def _steps(held: Mapping[str, Any], *, incidence: bool) -> dict[str, pd.DataFrame]:
    """What is drawn solid and, of competing events, dashed: group, time, value, low, high and number censored."""
    if not incidence:
        return {"solid": held["curves"].rename(columns={"survival": "value"})}
    table = held["incidence"].rename(columns={"incidence": "value"})
    # a curve goes on, level, for as long as the group is followed
    last = table.groupby(["group", "cause"], sort=False).tail(1)
    followed = held["curves"].groupby("group")["time"].max()
    last = last.assign(time=last["group"].map(followed).astype(np.float64))
    table = pd.concat([table, last], ignore_index=True).assign(n_censored=0)
    ways = {"solid": "event", "dashed": "competing"}
    return {way: table[table["cause"] == cause] for way, cause in ways.items()}


def _curve(ax: Axes, steps: Mapping[str, pd.DataFrame], color: str) -> None:
    """A group's steps with their interval, and ticks where patients are censored."""
    for way, table in steps.items():
        time, value = table["time"].to_numpy(), 100 * table["value"].to_numpy()
        ax.plot(
            time, value, drawstyle="steps-post", color=color, linestyle=way, linewidth=1.2, zorder=3
        )
        if way == "dashed":
            continue  # a second band over the first could be told from it by nobody
        low, high = (100 * table[side].to_numpy(dtype=np.float64) for side in ("ci_low", "ci_high"))
        ax.fill_between(
            time, low, high, step="post", color=color, alpha=0.13, linewidth=0, zorder=1
        )
        censored = table["n_censored"].to_numpy() > 0
        look: dict[str, Any] = {
            "linestyle": "none",
            "marker": "|",
            "markersize": 3.5,
            "markeredgewidth": 0.6,
        }
        ax.plot(time[censored], value[censored], color=color, zorder=4, **look)


def _frame(
    ax: Axes,
    held: Mapping[str, Any],
    curves: Mapping[str, pd.DataFrame],
    end: float,
    *,
    incidence: bool,
) -> None:
    """Limits and words of the axes."""
    params = held["params"]
    largest = (
        max(table.loc[table["time"] <= end, "ci_high"].max() for table in curves.values())
        if incidence
        else 1
    )
    top = 100.0 if np.isnan(largest) else float(min(100.0, 10 * np.ceil(10 * largest + 0.2)))
    ax.set(xlim=(0, end), ylim=(0, top * 1.02))
    steps = [1.2, 2.4, 3.6, 6, 10] if _unit(held) == "months" else [1, 2, 2.5, 5, 10]
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=steps))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    time, event = (
        _style.shortened(str(params.get(name, ""))) for name in ("time_key", "event_key")
    )
    ax.set_xlabel(f"{time}, {_unit(held)}".removeprefix(", "))
    ax.set_ylabel(f"{'with' if incidence else 'without'} event{f' ({event})' if event else ''}, %")


def _unit(held: Mapping[str, Any]) -> str:
    return str(held["params"].get("time_unit", "years"))


def _numbers_at_risk(ax: Axes, curves: pd.DataFrame, colors: Mapping[str, str]) -> None:
    """Under each tick the patients at risk, a line per group."""
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    ax.set_xticks(ticks)
    longest = max(10, int(ax.get_window_extent().width / _style.figure_of(ax).dpi * 6))
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": _SMALL}
    place["annotation_clip"] = False
    most = len(str(curves["at_risk"].max()))
    left = -4 - 0.3 * _SMALL * most  # beside the number under time 0, half of which hangs over
    ax.annotate(
        "at risk", (0, 0), (left, -_LABEL), xycoords="axes fraction", ha="right", **place
    ).set_color(_style.GREY)
    for i, (name, color) in enumerate(colors.items()):
        down = -_LABEL - 2 - _LINE * (i + 1)
        said = _style.shortened(name, longest)
        ax.annotate(
            said, (0, 0), (left, down), xycoords="axes fraction", ha="right", color=color, **place
        )
        own = curves[curves["group"].astype(str) == name]
        for tick, n in zip(ticks, _at(own, np.array(ticks)), strict=True):
            ax.annotate(
                f"{n}",
                (tick, 0),
                (0, down),
                xycoords=ax.get_xaxis_transform(),
                ha="center",
                **place,
            )


def _group_table(
    ax: Axes, groups: pd.DataFrame, colors: Mapping[str, str], unit: str, *, own: bool
) -> None:
    """Above the axes a line per group: its line, name, events, median and, of more than two groups, hazard ratio."""
    columns = {"events/patients": [f"{r.n_events}/{r.n}" for r in groups.itertuples()]}
    if unit:
        columns[f"median ({unit})"] = [_median(row) for _, row in groups.iterrows()]
    if len(groups) > 2:
        rows = groups[["ratio", "ci_low", "ci_high"]].to_numpy(dtype=np.float64)
        columns["hazard ratio"] = ["1", *(_rows.with_interval(*row) for row in rows[1:])]
    fig = _style.figure_of(ax)
    room = (
        fig.get_figwidth() - 0.1 if own else ax.get_window_extent().width / fig.dpi + _MARGIN / 72
    )
    taken = (
        sum(max(len(text) for text in (header, *cells)) + 2 for header, cells in columns.items())
        + 6
    )
    names = [
        _style.shortened(name, int(np.clip(room * 72 / (0.57 * _SMALL) - taken, 8, 30)))
        for name in colors
    ]
    packed: list[Artist] = [
        _column("", cells, list(colors.values())) for cells in (["━━"] * len(names), names)
    ]
    packed += [_column(header, cells) for header, cells in columns.items()]
    start = fig.transFigure if own else ax.transAxes
    box = AnchoredOffsetbox(
        "lower left",
        child=HPacker(children=packed, sep=7, pad=0, align="bottom"),
        pad=0,
        borderpad=0,
        frameon=False,
        bbox_to_anchor=(0, 1),
        bbox_transform=blended_transform_factory(start, ax.transAxes)
        + ScaledTranslation((4 if own else -_MARGIN) / 72, 4 / 72, fig.dpi_scale_trans),
    )
    ax.add_artist(box)


def _column(header: str, cells: list[str], colors: list[str] | None = None) -> VPacker:
    """Texts under each other."""
    looks = colors or ["black"] * len(cells)
    texts: list[Artist] = [
        TextArea(header or " ", textprops={"fontsize": _SMALL, "color": _style.GREY})
    ]
    texts += [
        TextArea(cell, textprops={"fontsize": _SMALL, "color": look})
        for cell, look in zip(cells, looks, strict=True)
    ]
    return VPacker(children=texts, sep=1.5, pad=0, align="center" if header else "left")


def _median(group: pd.Series) -> str:
    """A median time with its interval, as far as they are reached."""
    values = group[["median", "median_low", "median_high"]].to_numpy(dtype=np.float64)
    median, low, high = (f"{value:.1f}" if np.isfinite(value) else _NOT_REACHED for value in values)
    return f"{median} ({low}–{high})" if np.isfinite(values).any() else _NOT_REACHED


def _said(adata: AnnData, key: str, held: Mapping[str, Any]) -> str:
    """The test of the groups.

    Of groups of a signature never without that against random sets of genes.
    """
    lines, p = [], float(held["logrank"]["p"])
    groups = held["groups"]
    if len(groups) == 2:
        row = groups.iloc[1][["ratio", "ci_low", "ci_high"]].to_numpy(dtype=np.float64)
        estimable = np.isfinite(row).all() and groups["n_events"].min() > 0
        lines.append(
            f"hazard ratio {_rows.with_interval(*row)}"
            if estimable
            else "hazard ratio: a group has no events"
        )
    of = "log-rank" if held["params"].get("competing_key") in _UNSET else "cause-specific log-rank"
    lines.append(f"{of} {_rows.p_value(p)}" if np.isfinite(p) else "log-rank test: undefined")
    return "\n".join([*lines, *_against_random_sets(adata.uns[key])])


def _against_random_sets(held: Mapping[str, Any]) -> list[str]:
    """What tl.prognosis found of random sets of genes; nothing where no signature was asked."""
    if "curves" in held:
        return []
    tests = held.get("null_tests", pd.DataFrame({"empirical_p": []}))
    known = tests[tests["empirical_p"].notna()]
    if not len(known):
        return ["not compared with random gene sets"]
    first = known.iloc[
        int(np.argmax(known["adjusted"] == "none"))
    ]  # the groups are of the score alone
    return [
        f"against random gene sets {_rows.p_value(first['empirical_p'])}",
        f"({100 * first['share_significant']:.0f} % of these have p < 0.05)",
    ]


def _caption(held: Mapping[str, Any], end: float, *, incidence: bool) -> str:
    """What is not seen in the curves."""
    params, curves = held["params"], held["curves"]
    competing = params.get("competing_key")
    words = [
        "Bands: 95 % intervals."
        if incidence
        else "Bands: 95 % intervals; ticks: censored patients."
    ]
    if competing not in _UNSET:
        dashed, ended = f"Dashed: {competing} (competing).", f"{competing} counts as censored."
        words.append(dashed if incidence else ended)
    if params.get("entry_key") not in _UNSET:
        words.append("Patients count from their entry on.")
    unknown = (
        not incidence
        and held["groups"][["median", "median_low", "median_high"]].isna().to_numpy().any()
    )
    words += [f"{_NOT_REACHED}: not reached."] if unknown else []
    changes = "ph_p" in held["groups"] and (held["groups"]["ph_p"] < _NOT_PROPORTIONAL).any()
    words += ["The hazard ratio changes with time: an average."] if changes else []
    later = int(curves.loc[curves["time"] > end, "n_events"].sum())
    words += [f"{later} event{'s' * (later != 1)} later, when few are at risk."] if later else []
    lost = int(held["flow"]["n"].iloc[0] - held["groups"]["n"].sum()) if "flow" in held else 0
    words += [f"{lost} patient{'s' * (lost != 1)} left out (see flow)."] if lost else []
    return " ".join(words)


def _captions(fig: Figure, ax: Axes, caption: str, n_lines: int, *, own: bool) -> None:
    """Under all else; in the user's axes as wide as these."""
    if own:
        fig.supxlabel(
            _rows.broken(caption, fig.get_figwidth() * 20), fontsize=_SMALL, color=_style.GREY
        )
        return
    room = ax.get_window_extent().width / fig.dpi + _MARGIN / 72
    below = -_LABEL - 8 - _LINE * n_lines
    look: dict[str, Any] = {
        "fontsize": _SMALL,
        "color": _style.GREY,
        "va": "top",
        "annotation_clip": False,
    }
    text = _rows.broken(caption, room * 20)
    ax.annotate(
        text,
        (0, 0),
        (-_MARGIN, below),
        xycoords="axes fraction",
        textcoords="offset points",
        **look,
    )


def _test(fig: Figure, ax: Axes, text: str, curves: Mapping[str, pd.DataFrame]) -> None:
    """Write the test in the corner where it covers least of the curves."""
    fig.draw_without_rendering()  # lays the tables out; only now it is known how large the axes are
    path = [
        ax.transData.transform(_path(part, ax))
        for table in curves.values()
        for _, part in table.groupby("group")
    ]
    points = np.concatenate(path)
    drawn = ax.text(0, 0, text, transform=ax.transAxes, fontsize=_SMALL, linespacing=1.25, zorder=5)
    drawn.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1})
    covered = []
    for place in _PLACES:
        _put(drawn, *place)
        covered.append(int(Bbox(drawn.get_window_extent()).count_contains(points)))
    _put(drawn, *_PLACES[int(np.argmin(covered))])
    if (
        min(covered) and len(curves) > 1
    ):  # incidences end anywhere below 100 %, so there can be room above them
        height = Bbox(drawn.get_window_extent()).height / ax.get_window_extent().height + 0.06
        ax.set_ylim(top=ax.get_ylim()[1] / (1 - height))
        _put(drawn, *_ABOVE)


def _put(text: Text, x: float, y: float, ha: str, va: str) -> None:
    text.set(position=(x, y), ha=ha, va=va)


def _path(curve: pd.DataFrame, ax: Axes) -> np.ndarray:
    """Points along a group's steps, and along its interval, within the axes."""
    x = np.linspace(*ax.get_xlim(), _SAMPLES)
    time = curve["time"].to_numpy(dtype=np.float64)
    at = np.clip(np.searchsorted(time, x, side="right") - 1, 0, None)
    inside = x <= time.max(initial=0)
    values = [
        100 * curve[name].to_numpy(dtype=np.float64)[at]
        for name in ("value", "value", "ci_low", "ci_high")
    ]
    return np.concatenate(
        [np.column_stack([x, value])[inside & np.isfinite(value)] for value in values]
    )
