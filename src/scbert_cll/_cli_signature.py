"""The command signature: the genes that go with a class within donors, written to files and said in a sentence."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scbert_cll import _keys
from scbert_cll._cli_shared import read_cells, say

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

_SIGNATURE: Final = ("signature.csv", "signature.json", "signature.gmt", "signature.png")
_SHOWN: Final = 5


def signature(
    data: Path,
    *,
    out: Path,
    labels_key: str = _keys.CD49D,
    donor_key: str = _keys.DONOR,
    model: Path | None = None,
    layer: str | None = None,
    gene: str = "ITGA4",
    exclude_genes: Sequence[str] = (),
    min_cells: int = 20,
    min_donors: int = 4,
    min_detected: float = 0.02,
    alpha: float = 0.05,
    between: bool = False,
    name: str = "CD49D",
    overwrite: bool = False,
) -> None:
    """Find the genes whose expression goes with a class of cells within donors, or say why there are none.

    The donor is the unit. Writes signature.csv with the evidence for every tested gene, signature.gmt with the selected ones and
    signature.png.

    Parameters
    ----------
    data
        .h5ad or .h5mu with raw counts, classes and donors.
    out
        Folder for the files.
    labels_key
        obs column of the classes: the last one is compared with the first.
    donor_key
        obs column of donors.
    model
        Folder of a classifier, whose evidence is put beside each gene.
    layer
        Layer with the raw counts (default: X).
    gene
        The marker's own gene, which is marked.
    exclude_genes
        Genes to leave out from the start.
    min_cells
        Cells of every class that a donor needs to count.
    min_donors
        Donors needed.
    min_detected
        Share of the cells that must express a gene for it to be tested.
    alpha
        Expected share of false genes among those that pass the test.
    between
        Compare donors with each other instead of classes within donors.
    name
        Name of the sets in the .gmt, one word.
    overwrite
        Replace files of a signature that are in --out.
    """
    from scbert_cll import _checks

    _checks.gmt_name(name)
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists. Name another folder with --out, or pass --overwrite to replace the signature in it."
        )
    adata = read_cells(data)
    from scbert_cll import ScBERTClassifier, tl

    logging.getLogger(tl.signature.__module__).setLevel(logging.WARNING)  # what it says is said below
    network = None if model is None else ScBERTClassifier.load(model)
    asked: dict[str, Any] = {"groupby": labels_key, "donor_key": donor_key, "layer": layer, "gene": gene}
    asked |= {"exclude_genes": list(exclude_genes), "min_cells": min_cells, "min_donors": min_donors}
    tl.signature(adata, network, min_detected=min_detected, alpha=alpha, paired=not between, **asked)
    _write_signature(adata, out, name)
    say(_found(adata.uns[_keys.SIGNATURE], out))


def _write_signature(adata: AnnData, out: Path, name: str) -> None:
    """Write what there is: an empty signature has no sets, and without donors there is no table."""
    import matplotlib as mpl

    from scbert_cll import io, pl

    out.mkdir(parents=True, exist_ok=True)
    for file in _SIGNATURE:  # of an earlier run: this one may find none
        (out / file).unlink(missing_ok=True)
    found = adata.uns[_keys.SIGNATURE]
    if found["n_tested"]:
        io.write_csv(adata, out / "signature.csv")
    if found["n_selected"]:
        io.write_gmt(adata, out / "signature.gmt", name=name)
    mpl.use("agg")
    figure = cast("Figure", pl.signature(adata, return_fig=True))
    figure.savefig(out / "signature.png", dpi=200, bbox_inches="tight")


def _found(found: Mapping[str, Any], out: Path) -> str:
    """What was found, or why nothing was."""
    tested = (
        f"{found['n_tested']:,} genes were tested in {found['n_donors']} donors"
        if found["n_tested"]
        else "No gene was tested"
    )
    if not found["n_selected"]:
        return f"No gene is selected. {tested}: {found['reason']}. What there is to see is in {out}."
    genes = found["genes"][found["genes"]["selected"]]
    n_up = int((genes["sign"] > 0).sum())
    clearest = ", ".join(genes["gene"].head(_SHOWN))
    return f"{len(genes)} genes, {n_up} up and {len(genes) - n_up} down, the clearest {clearest}. {tested}. They are in {out}."
