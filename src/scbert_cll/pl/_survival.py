"""pl.survival: how many patients are without the event, and how many are at risk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys
from scbert_cll._checks.words import key_in, number_in
from scbert_cll._survival.units import Unit, in_unit
from scbert_cll.get._survival import patient_groups
from scbert_cll.pl import _style
from scbert_cll.pl import _survival_texts as texts

_SHARE_AT_RISK, _AT_RISK = 0.1, 5  # below these a curve says little


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
    drawn = texts.Groups(record, incidence=incidence, end=float(end))
    new, size = ax is None, (3.5, 2.75 + texts.LINE / 72 * len(drawn.colors) * (1 + at_risk))
    [ax] = _style.panels(ax, figsize, size)
    steps = _steps(drawn)
    for name, color in drawn.colors.items():
        for way, table in steps.items():
            _curve(ax, table[table["group"].astype(str) == name], way, color)
    _frame(ax, drawn, steps)
    if at_risk:
        texts.numbers_at_risk(ax, drawn)
    texts.group_table(ax, drawn, new=new)
    texts.caption(ax, drawn, len(drawn.colors) * at_risk, new=new)
    texts.test(ax, texts.result(adata.uns[key], drawn), steps)
    return ax


def _end(curves: pd.DataFrame) -> float:
    """Last time at which enough patients are at risk, of all groups together."""
    by_group = curves.groupby("group")
    at_risk = sum(texts.at_risk(part, curves["time"]) for _, part in by_group)
    times = curves["time"].to_numpy(dtype=np.float64)
    most = np.max(at_risk)
    enough = at_risk >= max(_SHARE_AT_RISK * most, min(_AT_RISK, most / 4))
    last = times[enough & (times > 0)].max(initial=0)
    return float(last or times.max() or 1)


def _steps(drawn: texts.Groups) -> dict[str, pd.DataFrame]:
    """What is drawn solid and, of competing events, dashed.

    Group, time, value, interval and number censored.
    """
    if not drawn.incidence:
        return {"solid": drawn.curves.rename(columns={"survival": "value"})}
    table = drawn.record["incidence"].rename(columns={"incidence": "value"})
    # a curve goes on, level, for as long as the group is followed
    last = table.groupby(["group", "cause"], sort=False).tail(1)
    followed = drawn.curves.groupby("group")["time"].max()
    last = last.assign(time=last["group"].map(followed).astype(np.float64))
    table = pd.concat([table, last], ignore_index=True).assign(n_censored=0)
    ways = {"solid": "event", "dashed": "competing"}
    return {way: table[table["cause"] == cause] for way, cause in ways.items()}


def _curve(ax: Axes, table: pd.DataFrame, way: str, color: str) -> None:
    """A group's steps with their interval, and ticks where patients are censored."""
    time, value = table["time"].to_numpy(), 100 * table["value"].to_numpy()
    look: _style.Look = {"drawstyle": "steps-post", "linestyle": way, "linewidth": 1.2}
    ax.plot(time, value, color=color, zorder=3, **look)
    if way == "dashed":
        return  # nobody could tell a second band from the first
    low, high = (100 * table[side].to_numpy(dtype=np.float64) for side in ("ci_low", "ci_high"))
    look = {"step": "post", "alpha": 0.13, "linewidth": 0}
    ax.fill_between(time, low, high, color=color, zorder=1, **look)
    censored = table["n_censored"].to_numpy() > 0
    look = {"linestyle": "none", "marker": "|", "markersize": 3.5, "color": color}
    ax.plot(time[censored], value[censored], markeredgewidth=0.6, zorder=4, **look)


def _frame(ax: Axes, drawn: texts.Groups, steps: Mapping[str, pd.DataFrame]) -> None:
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
    names = (str(drawn.params.get(name, "")) for name in ("time_key", "event_key"))
    time, event = (_style.shortened(name) for name in names)
    ax.set_xlabel(f"{time}, {drawn.unit}".removeprefix(", "))
    of = "with" if drawn.incidence else "without"
    ax.set_ylabel(f"{of} event{f' ({event})' if event else ''}, %")
