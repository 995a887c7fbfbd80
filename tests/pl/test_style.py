from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from scbert_cll.pl import _style


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0.5, (1e3, "10⁻³")),
        (0.002, (1e3, "10⁻³")),
        (0.0004, (1e6, "10⁻⁶")),
        (2e-9, (1e9, "10⁻⁹")),
        (3.0, (1.0, "")),
        (0.0, (1.0, "")),
    ],
)
def test_engineering(largest, expected):
    factor, unit = _style.engineering(largest)
    assert (factor, unit) == expected
    if unit:
        assert 1 <= largest * factor < 1000


def test_shortened():
    assert _style.shortened("CD49d+") == "CD49d+"
    assert _style.shortened("a" * 30, 10) == "a" * 9 + "…"


def test_sizes_do_not_depend_on_the_users():
    @_style.styled
    def size():
        return mpl.rcParams["font.size"]

    with mpl.rc_context({"font.size": 30}):
        assert size() == 8
        assert mpl.rcParams["font.size"] == 30


def test_axes_of_a_subfigure():
    fig = plt.figure()
    part = fig.subfigures(1, 2)[0]
    assert _style.figure_of(part.add_subplot()) is fig


def test_axes_without_a_figure():
    ax = plt.figure().add_subplot()
    ax.remove()
    ax.figure = None
    with pytest.raises(ValueError, match="ax belongs to no figure"):
        _style.figure_of(ax)
