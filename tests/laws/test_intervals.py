"""An interval contains its estimate, a range is called one, and a share near 0 or 1 has an interval
that can be.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from scbert_cll._evaluation.intervals import OutOfFold, tables
from scbert_cll._evaluation.within_donors import Pairs
from scbert_cll._signature.report.stability import stability
from scbert_cll._survival.added_value import _gain
from scbert_cll.pp._gate import _percentage
from scbert_cll.tl._patient_cd49d.calibration import intervals, others

# estimate, low, high of each table of an evaluation
TRIPLES = {
    "summary": [("estimate", "low", "high")],
    "differences": [("difference", "low", "high")],
    "per_class": [(side, f"{side}_low", f"{side}_high") for side in ("precision", "recall")],
    "donors": [(side, f"{side}_low", f"{side}_high") for side in ("observed", "predicted")],
    "agreement": [("share", "low", "high")],
    "reliability": [("observed", "low", "high")],
    "scores": [],
}
KINDS = ("random", "prior", "constant", "perfect", "nearly perfect", "wrong", "certain")


def contained(table: pd.DataFrame, estimate: str, low: str, high: str) -> None:
    """Where there is an interval there is an estimate within."""
    there = table[table[low].notna() | table[high].notna()]
    assert there[estimate].notna().all()
    outside = there[~((there[low] <= there[estimate]) & (there[estimate] <= there[high]))]
    assert outside.empty, outside.to_string()


def predicted(
    kind: str, y: np.ndarray, k: int, n_repeats: int, unit: np.ndarray, rng: np.random.Generator
):
    """Probabilities (repeats, cells, classes) of a model of this kind."""
    truth = np.eye(k)[y]
    if kind == "perfect":
        proba = np.tile(0.001 + truth, (n_repeats, 1, 1))
    elif kind == "certain":
        proba = np.tile(truth, (n_repeats, 1, 1))
    elif kind == "wrong":
        proba = np.tile(np.roll(truth, 1, axis=1) + 0.01, (n_repeats, 1, 1))
    elif kind == "nearly perfect":
        proba = np.tile(0.001 + truth, (n_repeats, 1, 1))
        at = rng.integers(len(y), size=n_repeats)
        proba[np.arange(n_repeats), at] = np.roll(proba[np.arange(n_repeats), at], 1, axis=1)
    elif kind == "constant":
        proba = np.tile(rng.dirichlet(np.ones(k)), (n_repeats, len(y), 1))
    elif (
        kind == "prior"
    ):  # of the other donors, as a model that knows nothing else has it in each fold
        proba = np.stack(
            [[truth[unit != u].mean(0) if (unit != u).any() else truth.mean(0) for u in unit]]
            * n_repeats
        )
    else:
        proba = rng.dirichlet(np.ones(k), (n_repeats, len(y)))
    return (proba / proba.sum(2, keepdims=True)).astype(np.float32)


@st.composite
def studies(draw) -> OutOfFold:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n_donors, k, n_repeats = (
        draw(st.integers(0, 7)),
        draw(st.integers(2, 3)),
        draw(st.integers(1, 3)),
    )
    unit = np.repeat(np.arange(max(n_donors, 1)), rng.integers(2, 25, max(n_donors, 1)))
    rates = rng.dirichlet(np.full(k, draw(st.sampled_from([0.2, 1.0, 10.0]))), max(n_donors, 1))
    y = np.array([rng.choice(k, p=rates[u]) for u in unit])
    y[:k] = np.arange(k) if len(y) >= k else y[:k]
    proba = {kind: predicted(kind, y, k, n_repeats, unit, rng) for kind in KINDS}
    if n_repeats > 1 and draw(st.booleans()):
        proba["random"][0, 0] = np.nan  # a repeat without a prediction
    donors = None if n_donors == 0 else np.array([f"D{u}" for u in unit])
    baselines = draw(st.lists(st.sampled_from(KINDS), unique=True, max_size=4))
    return OutOfFold([f"c{i}" for i in range(k)], True, y, donors, proba, baselines)


@settings(max_examples=15, deadline=None)
@given(studies(), st.integers(0, 9))
def test_every_interval_of_an_evaluation_contains_its_estimate(found: OutOfFold, seed: int) -> None:
    made = tables(found, n_bootstrap=40, seed=seed)
    assert made.tables.keys() == TRIPLES.keys()
    for name, triples in TRIPLES.items():
        for triple in triples:
            contained(made.tables[name], *triple)
    assert {c for c in made.tables["summary"] if c.endswith(("low", "high"))} == {"low", "high"}
    n_donors = 0 if found.donors is None else len(set(found.donors))
    kinds = set(made.tables["summary"]["interval"]) - {"none"}
    if n_donors >= 5:
        assert kinds <= {"bootstrap over donors"}
    else:
        assert kinds <= ({"range over donors"} if n_donors > 1 else {"bootstrap over cells"})


@pytest.mark.parametrize("n_errors", [0, 1, 2, 5])
def test_few_errors_have_about_wilsons_interval(n_errors: int) -> None:
    """1,242 cells, none to five of them wrong: the logit of a perfect draw would take the limit
    down to 0.89.
    """
    y = np.arange(1242) % 2
    called = y.copy()
    called[:n_errors] = 1 - called[:n_errors]
    proba = np.where(np.eye(2)[called] > 0, 0.99, 0.01)[None].astype(np.float32)
    made = tables(
        OutOfFold(["T", "B"], False, y, None, {"m": proba}, []), n_bootstrap=1000, seed=0
    ).tables
    summary = made["summary"].set_index("metric")
    wilson = binomtest(1242 - n_errors, 1242).proportion_ci(method="wilson")
    for metric in ("accuracy", "macro_f1", "balanced_accuracy"):
        row = summary.loc[metric]
        assert row["low"] == pytest.approx(wilson.low, abs=0.004)
        assert row["low"] < row["estimate"] <= row["high"]
    recall = made["per_class"].set_index("class").loc["T"]
    assert 0.98 < recall["recall_low"] < 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(0, 2**16),
    st.sampled_from(["perfect", "wrong", "random", "same"]),
)
def test_gates_within_donors(n_donors: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    donors = np.repeat(np.arange(n_donors), 12)
    positive = np.tile([True, False, False], 4 * n_donors)
    score = {"perfect": positive * 1.0, "wrong": positive * -1.0, "same": np.zeros(len(donors))}
    logit = score.get(kind, rng.normal(size=len(donors)) + 0.5 * positive)
    pairs = Pairs.of(np.column_stack([logit, rng.normal(size=len(donors))]), positive, donors)
    other = Pairs.of(np.column_stack([rng.normal(size=len(donors))] * 2), positive, donors)
    for found, ends in ((pairs, (0.0, 1.0)), (pairs.less(other), None)):
        low, high = found.interval(rng, ends)[:2]
        assert np.isnan(low) == np.isnan(high) == (n_donors == 1)
        assert n_donors == 1 or low <= found.auroc()[0] <= high
    if kind == "perfect" and n_donors >= 5:
        assert pairs.interval(rng, (0.0, 1.0)).low < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(20, 60), st.floats(-0.2, 0.4))
def test_gain_of_a_signature(seed: int, n: int, optimism: float) -> None:
    rng = np.random.default_rng(seed)
    base, full = 0.6, 0.6 + rng.exponential(0.1)
    drawn = [
        ({"c": (b, b + g)}, {"c": (b, b + g - optimism * rng.random())})
        for b, g in rng.exponential(0.1, (n, 2))
    ]
    found = _gain("c", {"c": (base, full)}, drawn)
    assert found.ci_low <= found.delta - found.optimism <= found.ci_high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(3, 12), st.floats(0, 1))
def test_predicted_share_of_a_donor(seed: int, n: int, shift: float) -> None:
    """Also where predictions are far off, so that the truth of others is read off a line."""
    rng = np.random.default_rng(seed)
    measured = 100 * rng.beta(0.5, 0.5, n)
    donors = pd.DataFrame(
        {"n_measured": 80, "n_predicted": 80, "in_training": False, "pct_measured": measured},
        [f"D{i}" for i in range(n)],
    )
    donors["pct_predicted"] = np.clip(
        measured * (1 - shift) + 100 * shift * rng.random(n) ** 0.3, 0, 100
    )
    table = intervals(donors, others(donors, 20), 20).join(donors)
    contained(table, "pct_predicted", "pct_predicted_low", "pct_predicted_high")


@given(st.integers(0, 2**16), st.integers(1, 200))
def test_measured_share_of_a_donor(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for above in (rng.normal(size=n), np.ones(n), -np.ones(n)):
        contained(pd.DataFrame([_percentage(above)]), "pct_positive", "ci_low", "ci_high")


@given(st.integers(0, 2**16), st.integers(2, 8), st.floats(0, 1))
def test_stability_of_gene_sets(seed: int, n_runs: int, share: float) -> None:
    found = stability(np.random.default_rng(seed).random((n_runs, 30)) < share)
    assert np.isnan(found.nogueira) or found.low <= found.nogueira <= found.high
