"""Running sums over sorted cells, and bins of equal mass."""

from __future__ import annotations

import numpy as np

from scbert_cll._evaluation import ranks


def test_running_sums_by_unit_are_those_summed_anew(monkeypatch):
    rng = np.random.default_rng(0)
    unit, number, at = rng.integers(0, 5, 60), rng.normal(size=60), np.array([-1, 0, 7, 59])
    weights = rng.integers(0, 4, (9, 5)).astype(float)
    by_unit = ranks.RunningSums(unit, number, 5, at)
    monkeypatch.setattr(ranks, "_FEW_UNITS", 1)
    anew = ranks.RunningSums(unit, number, 5, at)
    assert by_unit.by_unit is not None
    assert anew.by_unit is None
    np.testing.assert_allclose(by_unit(weights), anew(weights), atol=1e-12)
    assert (anew(weights)[:, 0] == 0).all()


def test_bins_hold_equally_many_and_equal_values_stay_together():
    sure = np.random.default_rng(0).permutation(150) / 150
    assert np.bincount(ranks.equal_mass_bins(sure)).tolist() == [10] * 15
    few = np.repeat([0.1, 0.2, 0.9], [70, 50, 30])
    bins = ranks.equal_mass_bins(few)
    assert len(set(zip(few, bins, strict=True))) == 3
    assert (np.diff(bins) >= 0).all()
