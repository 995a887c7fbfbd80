"""Gate card, curves and stability of a signature, from a report that is made up."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scbert_cll import pl
from scbert_cll.pl import _style

GATES = (
    "sufficiency",
    "network comprehensiveness",
    "permuted labels",
    "stability",
    "refitted on permuted labels",
)
SUBJECTS = ("signature", "attention", "abundance")
STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)


@pytest.fixture
def reported() -> AnnData:
    """An object as tl.signature_report leaves it."""
    rng = np.random.default_rng(0)
    adata = AnnData(np.ones((2, 2), np.float32))
    words = ["yes", "no", "not run", "information"]
    gates = [
        {
            "gate": g,
            "subject": s,
            "value": rng.random(),
            "null": rng.random(),
            "passed": words[(i + j) % 4],
        }
        for i, g in enumerate(GATES)
        for j, s in enumerate(SUBJECTS)
    ]
    table = pd.DataFrame(gates).rename(index=str)
    table.loc[table["gate"] == "permuted labels", ["value", "null"]] = [24, 0.05]
    table.loc[table["passed"] == "not run", ["value", "null"]] = np.nan
    table = table[~((table["gate"] == GATES[-1]) & (table["subject"] == "signature"))]
    runs = [
        {
            "subject": s,
            "run": run,
            "nogueira": 0.9 - 0.4 * (run > 0) * (s == "signature") + 0.01 * run,
            "low": 0.85,
            "high": 0.95,
        }
        for s in SUBJECTS
        for run in range(5)
    ]
    curves = [
        {
            "reader": r,
            "subject": s,
            "direction": d,
            "k": k,
            "value": v,
            "low": v - 0.03,
            "high": v + 0.03,
        }
        for r in ("linear", "network")
        for i, s in enumerate((*SUBJECTS, "random"))
        for d in ("insertion", "deletion")
        for k in STEPS
        for v in [
            0.5 + 0.45 * (k / (k + 3 + 20 * i) if d == "insertion" else 1 - k / (k + 30 + 200 * i))
        ]
    ]
    stability, curves = (pd.DataFrame(rows).rename(index=str) for rows in (runs, curves))
    adata.uns["signature_report"] = {"gates": table, "stability": stability, "curves": curves}
    return adata


PLOTS = [pl.signature_report, pl.stability, pl.faithfulness]


@pytest.mark.parametrize("plot", PLOTS)
def test_nothing_overlaps(plot, reported: AnnData, legible) -> None:
    fig = plot(reported, return_fig=True)
    assert isinstance(fig, Figure)
    legible(fig)


@pytest.mark.parametrize("plot", PLOTS)
def test_no_report_is_told(plot) -> None:
    adata = AnnData(np.ones((2, 2), np.float32))
    with pytest.raises(KeyError, match=r"Run tl\.signature_report first"):
        plot(adata)


@pytest.mark.parametrize(
    ("plot", "name"), [(pl.stability, "stability"), (pl.faithfulness, "curves")]
)
def test_a_part_that_was_not_run_is_told(plot, name: str, reported: AnnData) -> None:
    del reported.uns["signature_report"][name]
    with pytest.raises(KeyError, match=f"'{name}' is not in .*Its gates say why"):
        plot(reported)


def texts(ax: Axes) -> dict[tuple[float, float], tuple[str, str]]:
    """Where, what, and in which colour."""
    return {t.get_position(): (t.get_text(), t.get_color()) for t in ax.texts}


def test_the_card_says_verdict_number_and_null(reported: AnnData) -> None:
    ax = pl.signature_report(reported, show=False)
    assert [t.get_text() for t in ax.get_xticklabels()] == list(SUBJECTS)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(GATES)
    shown = texts(ax)
    marks = {
        "yes": ("✓", _style.BLUE),
        "no": ("✗", _style.RED),
        "not run": ("–", _style.GREY),
        "information": ("i", _style.GREY),
    }
    for row in reported.uns["signature_report"]["gates"].to_dict("records"):
        x, y = SUBJECTS.index(row["subject"]), GATES.index(row["gate"])
        assert shown[x - 0.38, y] == marks[row["passed"]]
        if row["passed"] == "not run":
            assert (x - 0.24, y) not in shown
        elif row["gate"] == "permuted labels":
            assert (shown[x - 0.24, y][0], shown[x + 0.46, y][0]) == ("24", "0.05")
        else:
            assert shown[x - 0.24, y][0] == f"{row['value']:.2f}"
    assert (-0.38, len(GATES) - 1) not in shown, "the signature has no such gate"
    assert "✗ not passed" in ax.get_xlabel()


def test_stability_stands_beside_its_null(reported: AnnData) -> None:
    ax = pl.stability(reported, show=False)
    table = reported.uns["signature_report"]["stability"]
    null = [line.get_xdata()[0] for line in ax.lines if line.get_color() == _style.RED]
    permuted = table[table["run"] > 0].groupby("subject", sort=False)["nogueira"]
    np.testing.assert_allclose(null, permuted.quantile(0.95).to_numpy())
    own = [
        line.get_xdata()[0]
        for line in ax.lines
        if line.get_color() == _style.BLUE and line.get_marker() == "o"
    ]
    np.testing.assert_allclose(own, 0.9)
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first on top"


def test_curves_of_one_reader_and_direction(reported: AnnData) -> None:
    ax = plt.subplots()[1]
    assert (
        pl.faithfulness(reported, reader="network", direction="deletion", ax=ax, show=False) is ax
    )
    table = reported.uns["signature_report"]["curves"].query(
        "reader == 'network' and direction == 'deletion'"
    )
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    for name in SUBJECTS:
        np.testing.assert_allclose(lines[name], table.loc[table["subject"] == name, "value"])
    assert len({line.get_marker() for line in ax.lines if line.get_label() in SUBJECTS}) == 3
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(k) for k in STEPS]


def test_both_directions_are_two_panels(reported: AnnData) -> None:
    axes = pl.faithfulness(reported, show=False)
    assert [ax.get_title() for ax in axes] == ["with these genes only", "without these genes"]


def test_bad_input(reported: AnnData) -> None:
    with pytest.raises(ValueError, match="ax holds one direction, there are 2"):
        pl.faithfulness(reported, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="direction must be one of"):
        pl.faithfulness(reported, direction="both")
    table = reported.uns["signature_report"]["curves"]
    reported.uns["signature_report"]["curves"] = table[table["reader"] == "linear"]
    with pytest.raises(ValueError, match="reader must be one of 'linear'; found 'network'"):
        pl.faithfulness(reported, reader="network")
