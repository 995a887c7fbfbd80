from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """No plot changes the user's settings; figures are closed."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture
def legible() -> Callable[[Figure], None]:
    """Every text lies inside the figure and no two overlap (turned ones aside); nothing is smaller than 6 points."""

    def check(fig: Figure) -> None:
        fig.canvas.draw()
        unseen = _beyond_limits(fig)
        texts = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in unseen]
        boxes = [(t.get_text(), t.get_window_extent(), t) for t in texts]
        assert boxes
        for text, box, t in boxes:
            assert t.get_fontsize() >= 6, text
            assert box.x0 > -1, (text, box)
            assert box.y0 > -1, (text, box)
            assert box.x1 < fig.bbox.x1 + 1, (text, box)
            assert box.y1 < fig.bbox.y1 + 1, (text, box)
        upright = [(text, box) for text, box, t in boxes if t.get_rotation() in (0, 90)]
        for (a, box_a), (b, box_b) in combinations(upright, 2):
            width = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
            height = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
            assert width < 1 or height < 1, (a, b)

    return check


def _beyond_limits(fig: Figure) -> set[int]:
    """Labels of ticks beyond the limits, which exist but are not drawn."""
    found = set()
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            drawn = [t for t in axis.get_major_ticks() if min(limits) <= t.get_loc() <= max(limits)]
            for tick in axis.majorTicks:
                found |= set() if tick in drawn else {id(tick.label1), id(tick.label2)}
    return found
