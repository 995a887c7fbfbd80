"""The commands corpus and check: many files to one corpus on disk, and its checksums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from scbert_cll import _keys
from scbert_cll._cli.reading import ALL, CLL, NO_DONORS
from scbert_cll._cli.shared import Arguments, can_write, say, table


def corpus(
    files: Sequence[Path],
    *,
    out: Path,
    vocab: Path,
    modality: str | None = None,
    layer: str | None = None,
    cells: str | None = None,
    raw: bool = False,
    method: Literal["log2", "uniform", "quantile", "gene_quantile"] = "log2",
    n_bins: int = 5,
    target_sum: float = 1e4,
    gene_key: str | None = None,
    aliases: Path | None = None,
    min_counts: float | None = None,
    min_matched: float | None = None,
    min_genes: int = 1,
    donor_key: str = _keys.DONOR,
    obs_columns: Sequence[str] = (),
    val_fraction: float = 0.1,
    val_donors: Sequence[str] = (),
    on_error: Literal["raise", "skip"] = "raise",
    memory: str = "1GB",
    seed: int = 0,
) -> None:
    """Bring many files to one corpus on disk, shuffled, with donors held apart for validation.

    All files have the same genes and bins in it. What to pretrain, finetune and predict from where
    the cells do not fit into memory. A run that was cut short goes on where it was: the same
    command again.

    Parameters
    ----------
    files
        .h5ad, .h5mu, .zarr or 10x .h5 files with raw counts.
    out
        Folder of the corpus, which must not exist.
    vocab
        Genes of the corpus: a file of names, one per line; a .csv or .h5ad of them; or the folder
        of a model, whose genes and bins are then used.
    modality
        Modality of an .h5mu with the RNA (default: the one with a usual name, such as rna).
    layer
        Where the raw counts are: X, a layer, or raw for adata.raw (default: X).
    cells
        Cells to use: all, or the obs column of true and false that chooses them (default: all).
    raw
        Keep the counts as they are instead of binning them.
    method, n_bins, target_sum
        How counts become bins, as pp.bin_expression has it.
    gene_key
        var column with the names of genes (default: the index, or a usual column of the
        vocabulary's kind, such as feature_name).
    aliases
        Table of other names of genes and their approved ones, such as a newer one of HGNC.
    min_counts
        Share of a file's counts that the vocabulary must hold (default: half of them, or half of
        the vocabulary in the file).
    min_matched
        Share of the vocabulary that a file must have.
    min_genes
        Genes of the vocabulary that a cell must express to be kept.
    donor_key
        obs column of donors; none: every file is one donor.
    obs_columns
        Further obs columns to keep, e.g. the labels.
    val_fraction
        Share of the cells that validates, of donors that are not trained on.
    val_donors
        Donors that validate instead.
    on_error
        Whether a bad file ends all (raise) or is left out and reported (skip).
    memory
        Most data to hold at a time.
    seed
        Of everything random.
    """
    from scbert_cll import pp

    if cells == CLL:
        raise ValueError(
            "--cells cll gates proteins of cells in memory, and a corpus is read block by "
            "block. Write the gate to a column of obs "
            "(adata.obs['is_cll'] = pp.cll_mask(adata)), and name that column with --cells."
        )
    can_write(out)
    genes, binning = _genes_and_binning(vocab)
    bins: Arguments = {"method": method, "n_bins": n_bins, "target_sum": target_sum}
    if binning is not None:
        bins = {name: binning["params"][name] for name in bins}
    frame = pp.build_corpus(
        list(files),
        out,
        vocab=genes,
        layer=None if layer == "X" else layer,
        modality=modality,
        cells=None if cells == ALL else cells,
        binned=not raw,
        gene_key=gene_key,
        aliases=aliases,
        min_counts=min_counts,
        min_matched=min_matched,
        min_genes=min_genes,
        donor_key=None if donor_key == NO_DONORS else donor_key,
        obs_columns=tuple(obs_columns),
        val_fraction=val_fraction,
        val_donors=tuple(val_donors) or None,
        on_error=on_error,
        memory=memory,
        rng=seed,
        edges=binning,
        **bins,
    )
    say(f"{table(frame)}\nThe corpus is in {out}.")


def _genes_and_binning(vocab: Path) -> tuple[Path | list[str], Arguments | None]:
    """A file of genes; or those that the totals of a saved model are of, and how it bins."""
    if not vocab.is_dir():
        return vocab, None
    from scbert_cll.model.exchange import folder

    saved = folder.load_folder(vocab)
    # totals are of the genes that the model is not shown, too
    excluded = saved.config["setup"]["exclude_genes"]
    return list(dict.fromkeys([*saved.genes, *excluded])), saved.binning


def check(corpus: Path) -> None:
    """Compare every file of a corpus with its checksum.

    Damaged ones and those that its manifest does not list are named, with code 2.

    Reads all of it: after copying a corpus, or before days of training.

    Parameters
    ----------
    corpus
        Folder of the corpus.
    """
    from scbert_cll import io
    from scbert_cll._corpus.format import remedy

    files = io.check_corpus(corpus)
    damaged = files[~files["is_whole"]]
    if len(damaged):
        say(table(damaged[["file", "problem"]]))
        raise ValueError(
            f"{len(damaged)} of {len(files):,} files of the corpus {corpus} are damaged. "
            f"{remedy(damaged['problem'])}"
        )
    size = files["bytes"].sum() / 1e6
    say(f"{corpus} is whole: {len(files):,} files, {size:,.1f} MB.")
