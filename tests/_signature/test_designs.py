"""The moderated t of a class beside covariates is limma's, and covariates that say the same as the
class are refused by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scbert_cll._signature.covariates import encoded
from scbert_cll._signature.design import Design

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def recorded() -> tuple[pd.DataFrame, pd.DataFrame]:
    samples = pd.read_csv(DATA / "limma_designs_samples.csv")
    for key in ("batch", "site"):
        samples[key] = samples[key].astype("category")
    samples["stage"] = pd.Categorical(samples["stage"], ["A", "B", "C"], ordered=True)
    return pd.read_csv(DATA / "limma_designs.csv"), samples


@pytest.mark.parametrize(
    ("name", "within", "covariates"),
    [
        ("numeric", False, ["age"]),
        ("categories", False, ["batch"]),
        ("ordered", False, ["stage"]),
        ("several", False, ["age", "batch", "stage"]),
        ("within_numeric", True, ["time"]),
        ("within_several", True, ["site", "time"]),
    ],
)
def test_as_limma(recorded, name: str, within: bool, covariates: list[str]) -> None:
    table, samples = recorded
    log = table.filter(like="y").to_numpy().T
    names = samples["donor"] if within else samples.index
    code = samples["class" if within else "group"].to_numpy()
    columns, ones = encoded(samples[covariates]).to_numpy(), np.ones(len(samples))
    unit = np.arange(len(samples))
    given = names.to_numpy(), code, ones, ones, ["neg", "pos"], within, columns, unit
    found = Design(2.0**log - 2, *given).test()
    np.testing.assert_allclose(found.t, table[f"t_{name}"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.p, table[f"p_{name}"], rtol=1e-6)


def test_the_slope_over_a_number_is_limmas(recorded) -> None:
    table, samples = recorded
    log, ones = table.filter(like="y").to_numpy().T, np.ones(len(samples))
    none, unit = np.zeros(len(samples), dtype=int), np.arange(len(samples))
    columns = encoded(samples[["age", "batch"]]).to_numpy()
    given = samples.index.to_numpy(), none, ones, ones, ["all"], False, columns, unit
    design = Design(2.0**log - 2, *given, samples["percent"].to_numpy())
    found = design.test()
    np.testing.assert_allclose(found.t, table["t_slope"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.p, table["p_slope"], rtol=1e-6)
    np.testing.assert_allclose(design.differences.mean(axis=0), found.effect, atol=1e-10)


def test_differences_are_adjusted_and_their_mean_is_the_effect(recorded) -> None:
    table, samples = recorded
    log, ones = table.filter(like="y").to_numpy().T, np.ones(len(samples))
    unit = np.arange(len(samples))
    for within in (True, False):
        code = samples["class" if within else "group"].to_numpy()
        names = samples["donor"] if within else samples.index
        columns = encoded(samples[["time", "batch"]]).to_numpy()
        design = Design(
            2.0**log - 2, names.to_numpy(), code, ones, ones, ["neg", "pos"], within, columns, unit
        )
        effect = design.test().effect
        np.testing.assert_allclose(design.differences.mean(axis=0), effect, atol=1e-10)
        scaled = Design(
            2.0**log - 2,
            names.to_numpy(),
            code,
            ones,
            ones,
            ["neg", "pos"],
            within,
            1e6 * columns,
            unit,
        )
        np.testing.assert_allclose(scaled.test().t, design.test().t, rtol=1e-7)
