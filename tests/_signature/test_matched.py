"""Random sets are expressed like the genes they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from scbert_cll._signature.matched import Matcher


@pytest.fixture
def genes() -> tuple[np.ndarray, np.ndarray]:
    """Abundance and detection, not quite the same thing."""
    rng = np.random.default_rng(0)
    abundance = np.sort(rng.lognormal(0, 2, 2000))
    return abundance, 1 - np.exp(-abundance * rng.lognormal(0, 0.5, 2000))


@pytest.mark.parametrize(
    "chosen", [np.arange(0, 40), np.arange(1960, 2000), np.arange(0, 2000, 100)]
)
def test_sets_are_alike_and_do_not_overlap(genes, chosen: np.ndarray) -> None:
    sets = Matcher(*genes).draw(chosen, 50, np.random.default_rng(1))
    assert sets.shape == (50, len(chosen))
    assert all(len(set(one)) == len(chosen) for one in sets.tolist())
    assert not np.isin(sets, chosen).any()
    for values in genes:
        rank = values.argsort().argsort()
        assert abs(rank[sets] - rank[chosen]).max() <= 150
    assert len(np.unique(sets)) > len(chosen), "the sets differ"


def test_as_many_as_there_are_can_be_drawn() -> None:
    match = Matcher(np.arange(30.0), np.arange(30.0))
    assert match.fits(10)
    assert not match.fits(11)
    sets = match.draw(np.arange(15), 20, np.random.default_rng(0))
    assert (np.sort(sets, axis=1) == np.arange(15, 30)).all()
    assert match.draw(np.arange(0), 3, np.random.default_rng(0)).shape == (3, 0)
