"""The command signature: genes that go with a class within donors, in files and in a sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from scbert_cll import _keys
from scbert_cll._checks.words import listed
from scbert_cll._cli import shared, words
from scbert_cll._cli.reading import ENDINGS, Cells, ReadingDonors
from scbert_cll._disk.in_place import make_folder
from scbert_cll._process import to_change

if TYPE_CHECKING:
    from anndata import AnnData

FILES: Final = ("signature.csv", "signature.json", "signature.gmt")
_FIGURE: Final = "signature.png"
_GENE: Final = "ITGA4"  # of CD49d
_SHOWN: Final = 5
Design = Literal["within", "between", "both"]


def signature(
    data: Path,
    *,
    out: Path,
    labels_key: str = _keys.CD49D,
    reading: ReadingDonors,
    model: Path | None = None,
    gene: str | None = None,
    exclude_genes: Sequence[str] = (),
    min_cells: int = 20,
    min_donors: int = 4,
    min_detected: float = 0.02,
    alpha: float = 0.05,
    design: Design = "within",
    covariates: Sequence[str] = (),
    sample_key: str | None = None,
    between: bool = False,
    name: str = "CD49D",
    overwrite: bool = False,
) -> None:
    """Find the genes whose expression goes with a class within donors, or say why there are none.

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
        Folder of a classifier, whose evidence is added to each gene.
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
    design
        Compare classes within donors, donors with each other (between), or both in one estimate.
    covariates
        obs columns to adjust for: numbers or categories.
    sample_key
        obs column of a donor's samples (time points, compartments), summed each on its own.
    between
        The former name of --design between.
    name
        Name of the sets in the .gmt, one word.
    overwrite
        Replace files of a signature that are in --out.
    """
    from scbert_cll._signature.gene_sets import check_gmt_name

    check_gmt_name(name)
    if between:
        warnings.warn("--between is now --design between.", FutureWarning, stacklevel=2)
        if design == "both":
            raise ValueError("--between and --design both are two designs. Leave --between out.")
        design = "between"
    shared.free_folder(out, "the signature", overwrite=overwrite)
    keys = {"labels_key": labels_key, "sample_key": sample_key}
    cells = shared.source(data, reading, **keys, covariates=covariates)
    if not isinstance(cells, Cells):
        raise ValueError(
            f"{data} is a corpus; the signature is of a file of cells: {', '.join(ENDINGS)}."
        )
    if cells.donor_key is None:
        raise ValueError(
            "A signature is tested over donors, and --donor-key none knows none. Name their "
            "column with --donor-key."
        )
    from scbert_cll import ScBERTClassifier, pl, tl

    adata = cells.rna
    # its news are part of the sentence below
    to_change(tl.signature.__module__).setLevel(logging.WARNING)
    tl.signature(
        adata,
        None if model is None else ScBERTClassifier.load(model),
        groupby=labels_key,
        donor_key=cells.donor_key,
        layer=cells.layer,
        gene=shared.typed_gene(adata, gene, _GENE),
        exclude_genes=list(exclude_genes),
        min_cells=min_cells,
        min_donors=min_donors,
        min_detected=min_detected,
        alpha=alpha,
        design=design,
        covariates=list(covariates),
        sample_key=sample_key,
    )
    make_folder(out)
    # of an earlier run: this one may have found none
    for file in {*FILES, _FIGURE} - write_signature(adata, out, name):
        (out / file).unlink(missing_ok=True)
    shared.say(_sentence(adata.uns[_keys.SIGNATURE], out))
    figure = partial(pl.signature, adata, return_fig=True)
    shared.draw({out / _FIGURE: figure}, shared.say)


def write_signature(adata: AnnData, out: Path, name: str) -> set[str]:
    """Write a signature's files; without genes there are no sets, without donors no table."""
    from scbert_cll import io

    record, written = adata.uns[_keys.SIGNATURE], set[str]()
    if record["n_tested"]:
        io.write_csv(adata, out / "signature.csv", overwrite=True)
        written = {"signature.csv", "signature.json"}
    if record["n_selected"]:
        io.write_gmt(adata, out / "signature.gmt", name=name, overwrite=True)
        written.add("signature.gmt")
    return written


def up_and_down(record: Mapping[str, Any]) -> str:
    """Number of selected genes, and in which direction they go."""
    signs = record["genes"].loc[record["genes"]["selected"], "sign"]
    n_up = int((signs > 0).sum())
    return f"{len(signs)} genes, {n_up} up and {len(signs) - n_up} down"


def _sentence(record: Mapping[str, Any], out: Path) -> str:
    """Number of genes and the clearest ones, or the reason why there are none."""
    n_tested, tested = record["n_tested"], "No gene was tested"
    if n_tested:
        tested = f"{n_tested:,} genes were tested in {record['n_donors']} donors{_adjusted(record)}"
    if not record["n_selected"]:
        written = "evidence and figure are" if n_tested else "figure is"
        reason = words.in_options(record["reason"], words.options_of(signature))
        return f"No gene is selected. {tested}: {reason}. The {written} in {out}."
    genes = record["genes"]
    clearest = ", ".join(genes.loc[genes["selected"], "gene"].head(_SHOWN))
    selected = up_and_down(record)
    verdict = str(record.get("verdict", ""))
    verdict = f" {verdict[:1].upper()}{verdict[1:]}." * bool(verdict)
    return f"{selected}, the clearest {clearest}. {tested}.{verdict} They are in {out}."


def _adjusted(record: Mapping[str, Any]) -> str:
    """For which covariates, which of them cancelled, and who has no value of them."""
    params = record["params"]
    cancelled = params.get("covariates_cancelled", [])
    names = [name for name in params["covariates"] if name not in cancelled]
    text = f", adjusted for {listed(names)}" * bool(names)
    text += f"; the same within each, so cancelled: {listed(cancelled)}" * bool(cancelled)
    n = params.get("n_donors_missing", 0)
    return text + f"; {n} {'donors' if n > 1 else 'donor'} without a value left out" * bool(n)
