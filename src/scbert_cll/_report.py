"""What a run says: printed as it goes, and written as markdown and JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

_log = logging.getLogger(__name__)


@dataclass
class Report:
    """What was decided and found, in the order of the steps; printed, and written as markdown and JSON."""

    steps: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def say(self, sentence: str) -> None:
        """Add a sentence, and print it now: long work shows progress."""
        self.steps.append(sentence)
        _log.info(sentence)

    def show(self, title: str, table: pd.DataFrame) -> None:
        """Add a table, and print it now."""
        self.tables[title] = table
        _log.info("\n%s\n%s\n", title, _text(table))

    def write(self, out: Path) -> None:
        """Write report.md and report.json."""
        lines = ["# scbert_cll report", "", *(f"- {s}" for s in self.steps), ""]
        for title, table in self.tables.items():
            lines += [f"## {title}", "", "```", _text(table), "```", ""]
        (out / "report.md").write_text("\n".join(lines), encoding="utf-8")
        tables = {title: json.loads(table.to_json(orient="split")) for title, table in self.tables.items()}
        (out / "report.json").write_text(
            json.dumps({"steps": self.steps, "tables": tables}, indent=1), encoding="utf-8"
        )


def _text(table: pd.DataFrame) -> str:
    return table.to_string(float_format=lambda value: f"{value:.0f}" if value.is_integer() else f"{value:.3f}")
