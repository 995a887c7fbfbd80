"""Results of a run as text: tables and a report, printed and written; figures, drawn last."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scbert_cll._disk.formats import FigureError, versions, write_json, write_text
from scbert_cll._disk.in_place import replace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
_FORMAT_VERSION = 1  # of report.json


@dataclass
class Report:
    """Sentences and tables of a run in the order of its steps: printed, and written to files."""

    steps: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def say(self, sentence: str) -> None:
        """Add a sentence, and print it now: long work shows progress."""
        self.steps.append(sentence)
        _log.info(sentence)

    def show(self, title: str, frame: pd.DataFrame, shown: pd.DataFrame | None = None) -> None:
        """Add a table, and print it now; `shown` is the same for people, where that is shorter."""
        self.tables[title] = frame
        self.texts[title] = table(frame if shown is None else shown, index=True)
        _log.info("\n%s\n%s\n", title, self.texts[title])

    def write(self, out: Path) -> None:
        """Write report.md and report.json."""
        lines = ["# scbert_cll report", "", *(f"- {s}" for s in self.steps), ""]
        for title, text in self.texts.items():
            lines += [f"## {title}", "", "```", text, "```", ""]
        write_text(out / "report.md", "\n".join(lines))
        record = {
            "format_version": _FORMAT_VERSION,
            "versions": versions("pandas"),
            "steps": self.steps,
            "tables": {
                title: json.loads(frame.to_json(orient="split"))
                for title, frame in self.tables.items()
            },
        }
        write_json(out / "report.json", record)


def table(frame: pd.DataFrame, *, index: bool = False) -> str:
    """Rows as text: whole numbers without decimals, others with three."""

    def number(value: float) -> str:
        return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"

    return frame.to_string(index=index, float_format=number, na_rep="")


def draw(figures: Mapping[Path, Callable[[], Figure]], say: Callable[[str], None]) -> None:
    """Draw figures to files when everything else is written; one that fails costs itself only.

    Raises
    ------
    FigureError
        At the end, if a figure could not be drawn.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    failed = []
    for path, plot in figures.items():
        try:
            figure = plot()
            save = partial(figure.savefig, dpi=200, bbox_inches="tight")
            replace(path, save, lambda aside: aside.stat().st_size > 0)
            plt.close(figure)
        except Exception as error:  # noqa: BLE001
            plt.close("all")
            path.unlink(missing_ok=True)  # of an earlier run
            failed.append(path.name)
            say(
                f"The figure {path.name} could not be drawn ({type(error).__name__}: "
                f"{' '.join(str(error).split())})."
            )
    if failed:
        raise FigureError(
            f"Everything is written but {', '.join(failed)}, which could not be drawn."
        )


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Nothing below a warning from one logger."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
