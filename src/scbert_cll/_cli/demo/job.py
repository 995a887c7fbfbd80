"""A run of the demo: its options, its cells and its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pandas as pd
from anndata import AnnData
from mudata import MuData

from scbert_cll._cli.demo.options import Options
from scbert_cll._cli.reading import Cells, Reading
from scbert_cll._cli.report import Report
from scbert_cll._protein.cite_seq import Protein


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
    def data(self) -> AnnData | MuData:
        """The object that is labelled, drawn and written."""
        return self.cells.data

    @property
    def positive(self) -> str:
        """Name of the positive class."""
        return f"{self.options.marker}+"
