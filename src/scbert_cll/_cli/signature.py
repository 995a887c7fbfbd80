"""The command signature: the genes that go with a class within donors, written to files and said in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scbert_cll import _keys
from scbert_cll._cli.reading import ENDINGS, Reading
from scbert_cll._cli.shared import new_folder_of, of_donors, say, source, typed_column, typed_gene
from scbert_cll._disk.in_place import make_folder
from scbert_cll._signature import checks as signature_checks

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
    reading: Reading,
    model: Path | None = None,
    gene: str | None = None,
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

    The donor is the unit. Writes signature.csv with the evidence for every tested gene,
    signature.gmt with the selected ones and signature.png.

    Parameters
    ----------
    data
        .h5ad, .h5mu or .zarr with raw counts, classes and donors.
    out
        Folder for the files.
    labels_key
        obs column of the classes: the last one is compared with the first.
    model
        Folder of a classifier, whose evidence is put beside each gene.
    gene
        The marker's own gene, which is marked (default: ITGA4, where it is there).
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
    signature_checks.gmt_name(name)
    new_folder_of(out, None, "the signature", overwrite=overwrite)
    cells = source(data, of_donors(reading), labels_key)
    if isinstance(cells, Path):
        raise ValueError(
            f"{data} is a corpus; the signature is of a file of cells: {', '.join(ENDINGS)}."
        )
    typed_column(cells, "--labels-key", labels_key, None)
    if cells.donor_key is None:
        raise ValueError(
            "A signature is tested over donors, and --donor-key none knows none. Name their "
            "column with --donor-key."
        )
    from scbert_cll import ScBERTClassifier, pl, tl
    from scbert_cll._cli.report import draw, quiet

    adata = cells.rna
    network = None if model is None else ScBERTClassifier.load(model)
    asked: dict[str, Any] = {
        "groupby": labels_key,
        "donor_key": cells.donor_key,
        "layer": cells.layer,
    }
    asked |= {"gene": typed_gene(adata, gene), "exclude_genes": list(exclude_genes)}
    asked |= {"min_cells": min_cells, "min_donors": min_donors}
    with quiet(tl.signature.__module__):  # what it says is said below
        tl.signature(
            adata, network, min_detected=min_detected, alpha=alpha, paired=not between, **asked
        )
    _write_signature(adata, out, name)
    say(_found(adata.uns[_keys.SIGNATURE], out))
    draw({out / "signature.png": lambda: cast("Figure", pl.signature(adata, return_fig=True))}, say)


def _write_signature(adata: AnnData, out: Path, name: str) -> None:
    """Write what there is: an empty signature has no sets, and without donors there is no table."""
    from scbert_cll import io

    make_folder(out)
    found, written = adata.uns[_keys.SIGNATURE], set()
    if found["n_tested"]:
        io.write_csv(adata, out / "signature.csv", overwrite=True)
        written |= {"signature.csv", "signature.json"}
    if found["n_selected"]:
        io.write_gmt(adata, out / "signature.gmt", name=name, overwrite=True)
        written.add("signature.gmt")
    for file in set(_SIGNATURE) - written:  # of an earlier run: this one may have found none
        (out / file).unlink(missing_ok=True)


def _found(found: Mapping[str, Any], out: Path) -> str:
    """What was found, or why nothing was."""
    tested = (
        f"{found['n_tested']:,} genes were tested in {found['n_donors']} donors"
        if found["n_tested"]
        else "No gene was tested"
    )
    if not found["n_selected"]:
        return (
            f"No gene is selected. {tested}: {found['reason']}. What there is to see is in {out}."
        )
    genes = found["genes"][found["genes"]["selected"]]
    n_up = int((genes["sign"] > 0).sum())
    clearest = ", ".join(genes["gene"].head(_SHOWN))
    return (
        f"{len(genes)} genes, {n_up} up and {len(genes) - n_up} down, the clearest {clearest}. "
        f"{tested}. They are in {out}."
    )
