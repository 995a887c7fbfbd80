"""A run of the demo: its options, its cells and its report."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from scbert_cll._cli.reading import Cells, Reading
from scbert_cll._cli.shared import Accelerator, table
from scbert_cll._cli.signature import FILES
from scbert_cll._disk.formats import versions, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scbert_cll._protein.cite_seq import Protein

_log = logging.getLogger(__name__)
_FORMAT_VERSION = 1  # of report.json

OUTPUTS: Final = (
    *("report.md", "report.json", "model", "annotated.h5ad", "annotated.h5mu"),
    *(*FILES, "gene_attention.csv", "figures"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the demo.

    Parameters
    ----------
    input
        .h5mu with RNA and protein, or .h5ad with protein in obsm (or a .zarr store of either); raw
        counts.
    out
        Folder for everything written.
    marker
        Protein that labels the cells.
    gene
        The marker's gene, for the figure and the baselines (default: ITGA4 for CD49d, where it is
        there).
    batch_key
        obs column of batches, gated apart.
    label
        auto: two populations by mixture, else the outer thirds.
    pretrain_on
        .h5ad with more RNA (raw counts) to pretrain on.
    max_epochs
        Passes over the training cells in each stage (default: 10 to 40 by their number).
    seed
        Of everything random.
    accelerator
        Where to train.
    """

    input: Path | None = None
    out: Path = Path("scbert_cll_demo")
    marker: str = "CD49d"
    gene: str | None = None
    batch_key: str | None = None
    label: Literal["auto", "gmm", "quantile"] = "auto"
    pretrain_on: Path | None = None
    max_epochs: int | None = None
    seed: int = 0
    accelerator: Accelerator = "auto"


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
        frames = self.tables.items()
        tables = {t: json.loads(x.to_json(orient="split")) for t, x in frames}
        record = {"format_version": _FORMAT_VERSION, "versions": versions("pandas")}
        record = {**record, "steps": self.steps, "tables": tables}
        write_json(out / "report.json", record)


@dataclass(frozen=True)
class Job:
    """Cells of a run with what is known of them before the work begins, options and report."""

    options: Options
    reading: Reading
    report: Report
    cells: Cells
    donor_key: str
    gene: str | None  # the marker's own
    proteins: Protein

    @property
    def adata(self) -> AnnData:
        """The RNA."""
        return self.cells.rna

    @property
    def obs(self) -> pd.DataFrame:
        """Columns of the RNA's cells, which are in memory."""
        return cast("pd.DataFrame", self.cells.rna.obs)

    @property
    def positive(self) -> str:
        """Name of the positive class."""
        return f"{self.options.marker}+"
