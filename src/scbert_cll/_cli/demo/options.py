"""Options of the demo, and the names of the files that it writes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, get_args

from scbert_cll._cli.reading import Reading
from scbert_cll._cli.shared import Accelerator
from scbert_cll._cli.signature import FILES

Label = Literal["auto", "gmm", "quantile"]

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
    label: Label = "auto"
    pretrain_on: Path | None = None
    max_epochs: int | None = None
    seed: int = 0
    accelerator: Accelerator = "auto"


# by name, with the words that they may be, for sentences of Python functions
OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    f.name: get_args(Label) if f.name == "label" else ()
    for f in (*fields(Reading), *fields(Options))
}
