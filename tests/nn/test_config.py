"""Everything that shapes the network, and the old name of one choice."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import Any

import pytest

from scbert_cll.nn import Config

OLD: dict[str, Any] = {"n_features": 12}


def test_random_features_by_default_are_those_of_the_paper():
    assert Config(n_genes=5, dim_head=8).features == 16  # int(8 ln 8)
    assert Config(n_genes=5, n_random_features=12).features == 12


def test_the_old_name_of_the_random_features_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="n_features is now called n_random_features") as caught:
        config = Config(n_genes=5, **OLD)
    assert caught[0].filename == __file__
    assert config == Config(n_genes=5, n_random_features=12)
    with pytest.warns(FutureWarning, match="n_random_features"):
        assert config.n_features == 12


def test_the_old_name_is_nowhere_but_where_it_is_asked_for():
    config = Config(n_genes=5, n_random_features=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "n_features" not in asdict(config)
        assert replace(config, n_genes=6) == Config(n_genes=6, n_random_features=12)
        assert "n_features" not in repr(config).replace("n_random_features", "")


def test_both_names_at_once_are_refused():
    with pytest.raises(TypeError, match="Leave n_features out"):
        Config(n_genes=5, n_random_features=12, **OLD)
