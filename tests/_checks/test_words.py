"""Checks of single values, and how things are listed."""

from __future__ import annotations

import numpy as np
import pytest

from scbert_cll._checks.words import choice, key_in, listed, number_in
from tests._make import counted


@pytest.mark.parametrize(
    ("items", "n", "expected"),
    [
        ([], 5, "none"),
        (["a"], 5, "'a'"),
        ("abc", 3, "'a', 'b', 'c'"),
        ("abcd", 3, "'a', 'b', 'c' and 1 more"),
        (iter([1, 2]), 1, "'1' and 1 more"),
    ],
)
def test_listed(items: object, n: int, expected: str) -> None:
    assert listed(items, n) == expected


def test_choice() -> None:
    assert choice("a", ("a", "b"), "method") == "a"
    with pytest.raises(ValueError, match="method must be one of 'a', 'b'; found 'c'"):
        choice("c", ("a", "b"), "method")


@pytest.mark.parametrize("value", [0, 11, np.nan, "5", None, True])
def test_number_in(value: object) -> None:
    for good in (1, 10, 2.5, np.float32(3), np.int64(4)):
        number_in(good, "n", 1, 10)
    with pytest.raises(ValueError, match="n must be a number from 1 to 10; found"):
        number_in(value, "n", 1, 10)


def test_whole_number_in() -> None:
    number_in(np.int32(4), "n", 1, 10, whole=True)
    with pytest.raises(ValueError, match=r"n must be a whole number from 1 to 10; found 4.0"):
        number_in(4.0, "n", 1, 10, whole=True)


def test_key_in_lists_what_is_there() -> None:
    adata = counted()
    with pytest.raises(KeyError, match=r"'raw' is not in adata.layers; it has none"):
        key_in("raw", adata.layers, "adata.layers")
    adata.layers["counts"] = adata.X
    with pytest.raises(KeyError, match=r"'raw' is not in adata.layers; it has 'counts'. Make it."):
        key_in("raw", adata.layers, "adata.layers", "Make it.")
    key_in("counts", adata.layers, "adata.layers")
