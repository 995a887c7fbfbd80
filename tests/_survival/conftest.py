"""Numbers of other programs, recorded by the scripts in tests/data, and a slow, obvious way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scbert_cll._survival.outcome import Outcome

DATA = Path(__file__).parents[1] / "data"


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name) as file:
        return dict(file)


@pytest.fixture(scope="package")
def recorded() -> dict[str, np.ndarray]:
    """Of R's survival and scikit-survival."""
    return stored("survival_reference.npz")


@pytest.fixture(scope="package")
def lifelines() -> dict[str, np.ndarray]:
    """Of lifelines, with the patients that they are about."""
    return stored("lifelines_reference.npz")


@pytest.fixture(scope="package")
def rossi(lifelines: dict[str, np.ndarray]) -> pd.DataFrame:
    """432 men released from prison, 114 arrested again within a year."""
    return pd.DataFrame(lifelines["rossi"], columns=lifelines["rossi_columns"])


@pytest.fixture(scope="package")
def lung(lifelines: dict[str, np.ndarray]) -> pd.DataFrame:
    """228 patients with lung cancer, 165 deaths."""
    return pd.DataFrame(lifelines["lung"], columns=lifelines["lung_columns"])


@pytest.fixture(scope="package")
def risk_weights() -> Callable[[Outcome, np.ndarray], np.ndarray]:
    """The risk sets of Cox's model as a matrix, with Efron's ties."""
    return slow_risk_weights


def slow_risk_weights(outcome: Outcome, risk: np.ndarray) -> np.ndarray:
    """Events × patients: how likely each patient was the one who had the event (rows add up to 1).

    Of d events at one time, the k-th counts those of the d with weight 1 − k/d (Efron).
    """
    time, event = np.asarray(outcome.time), outcome.event
    at = time[event][:, None]
    at_risk = time >= at
    if outcome.entry is not None:
        at_risk &= outcome.entry < at
    stratum = np.zeros(len(time), dtype=np.int64) if outcome.strata is None else outcome.strata
    at_risk &= stratum == stratum[event][:, None]
    tied = at_risk & event & (time == at)
    order = np.arange(len(at))
    earlier = tied[:, event] & (order[None, :] < order[:, None])
    fraction = earlier.sum(axis=1) / tied.sum(axis=1)
    weight = np.exp(risk) * at_risk * (1 - fraction[:, None] * tied)
    return weight / weight.sum(axis=1, keepdims=True)
