"""The commands of ``python -m scbert_cll``: a function each, whose parameters are its options and whose docstring is its help.

Everything heavy is imported inside, so that asking for help is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from scbert_cll import _keys
from scbert_cll._cli.reading import ALL, CLL, NO_DONORS, OUTPUTS, Reading, ReadingTokens, is_cells
from scbert_cll._cli.shared import (
    Accelerator,
    can_write,
    known_device,
    model_folder,
    new_file,
    new_folder_of,
    of_donors,
    only_of_a_corpus,
    results_to,
    say,
    source,
    table,
    with_tokens,
)
from scbert_cll._cli.signature import signature
from scbert_cll._cli.train import finetune, pretrain
from scbert_cll.model.corpus import checks as reading_checks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def demo(
    *,
    input: Path | None = None,  # noqa: A002
    out: Path = Path("scbert_cll_demo"),
    reading: Reading,
    marker: str = "CD49d",
    gene: str | None = None,
    batch_key: str | None = None,
    label: Literal["auto", "gmm", "quantile"] = "auto",
    pretrain_on: Path | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
    accelerator: Accelerator = "auto",
    overwrite: bool = False,
) -> None:
    """Run the whole workflow: label by protein, hold donors out, train, predict, draw, report.

    Labels cells by a protein, holds donors out, trains scBERT on RNA, predicts, finds the
    signature, draws and reports. Without --input it runs on simulated CLL data whose truth is
    known, of which it uses the CLL cells.

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
    overwrite
        Replace the files of a run that are in --out.
    """
    options = dict(locals())
    known_device(accelerator)
    new_folder_of(out, OUTPUTS, "the run", overwrite=options.pop("overwrite"))
    if (out / "model").exists():
        model_folder(out / "model", overwrite=True)
    options["reading"] = of_donors(reading)
    from scbert_cll._cli.demo import run

    run.run(run.Options(**options))


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
    aliases: Path | None = None,
    min_matched: float = 0.5,
    min_genes: int = 1,
    donor_key: str = _keys.DONOR,
    obs_columns: Sequence[str] = (),
    val_fraction: float = 0.1,
    val_donors: Sequence[str] = (),
    on_error: Literal["raise", "skip"] = "raise",
    memory: str = "1GB",
    seed: int = 0,
) -> None:
    """Bring many files to one corpus on disk: the same genes, binned, shuffled, donors held apart for validation.

    What to pretrain, finetune and predict from where the cells do not fit into memory. A run that
    was cut short goes on where it was: the same command again.

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
    aliases
        Table of other names of genes and their approved ones, such as HGNC's.
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
        Whether a bad file ends all (raise) or is left out and told (skip).
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
    genes, edges = _genes_and_bins(vocab)
    found = pp.build_corpus(
        list(files),
        out,
        vocab=genes,
        layer=None if layer == "X" else layer,
        modality=modality,
        cells=None if cells == ALL else cells,
        binned=not raw,
        aliases=aliases,
        min_matched=min_matched,
        min_genes=min_genes,
        donor_key=None if donor_key == NO_DONORS else donor_key,
        obs_columns=tuple(obs_columns),
        val_fraction=val_fraction,
        val_donors=tuple(val_donors) or None,
        on_error=on_error,
        memory=memory,
        rng=seed,
        **(edges or {"method": method, "n_bins": n_bins, "target_sum": target_sum}),
    )
    say(f"{table(found)}\nThe corpus is in {out}.")


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
    say(f"{corpus} is whole: {len(files):,} files, {files['bytes'].sum() / 1e6:,.1f} MB.")


def predict(
    data: Path,
    *,
    model: Path,
    out: Path,
    reading: ReadingTokens,
    unassigned_below: float | None = None,
    batch_size: int | None = None,
    groupby: str | None = None,
    parts: Sequence[str] = (_keys.TRAIN, _keys.VAL),
    shard: str = "0/1",
    accelerator: Accelerator = "auto",
    overwrite: bool = False,
) -> None:
    """Predict the class of each cell, and embed it. Labels are never read.

    Parameters
    ----------
    data
        A corpus, or an .h5ad or .h5mu with the layer that the model was trained on or, with
        --layer, raw counts.
    model
        Folder of a model of the command finetune; of one of pretrain cells are embedded only.
    out
        What to write: .h5ad with the cells and obs, obsm of tl.predict; of a corpus .zarr with obs,
        obsm and the attention of genes, without counts.
    unassigned_below
        Call a cell unassigned where its largest probability is below this (0 to 1).
    batch_size
        Cells at a time; affects speed and memory, not results.
    groupby
        obs column whose groups the attention is averaged in (corpus).
    parts
        Parts to predict (corpus).
    shard
        This share of the cells, e.g. 0/4, 1/4, 2/4 and 3/4 on four machines (corpus).
    accelerator
        Where to compute.
    overwrite
        Replace --out (.h5ad).
    """
    share = _shard(shard)
    known_device(accelerator)
    if is_cells(data):
        new_file(out, [".h5ad"], overwrite=overwrite)
        corpus_only = {
            "groupby": groupby is not None,
            "parts": list(parts) != [_keys.TRAIN, _keys.VAL],
        }
        only_of_a_corpus(data, **corpus_only, shard=share != (0, 1))
    else:
        can_write(out)
    cells = source(data, reading)
    from scbert_cll import ScBERT, ScBERTClassifier, tl
    from scbert_cll._disk.cells import write_cells
    from scbert_cll.model.exchange.hub import class_of

    kind = ScBERT if class_of(model) == "ScBERT" else ScBERTClassifier
    loaded = kind.load(model, accelerator=accelerator)
    if isinstance(cells, Path):
        asked: dict[str, Any] = {"groupby": groupby, "parts": tuple(parts), "shard": share}
        tl.predict_corpus(
            cells, loaded, out, unassigned_below=unassigned_below, batch_size=batch_size, **asked
        )
        what = "predictions" if kind is ScBERTClassifier else "embeddings"
        say(
            f"The {what} are in {out}."
            if out.exists()
            else f"This share is done; {out} appears with the last one."
        )
        return
    tokens = with_tokens(cells, reading, loaded)
    said = "embedded"
    if isinstance(loaded, ScBERTClassifier):
        tl.predict(tokens, loaded, unassigned_below=unassigned_below, batch_size=batch_size)
        said = ", ".join(
            f"{n:,} {name}" for name, n in tokens.obs[_keys.PRED].value_counts().items()
        )
    else:
        if unassigned_below is not None:
            reading_checks.for_a_classifier(is_one=False)
        tokens.obsm[_keys.X_SCBERT] = loaded.get_latent_representation(
            tokens, batch_size=batch_size
        )
    results_to(cells.rna, tokens)
    write_cells(out, cells.rna)
    if cells.donor_key is not None and isinstance(loaded, ScBERTClassifier):
        say(table(_by_donor(cells.rna, cells.donor_key)))
    say(f"{tokens.n_obs:,} cells: {said}. They are in {out}.")


def _by_donor(adata: AnnData, donor_key: str) -> pd.DataFrame:
    """Cells of each donor, and how many are predicted to be of each class."""
    import pandas as pd

    from scbert_cll import _checks

    donors: Any = _checks.people.donors(adata, donor_key, quiet=True).rename("donor")
    obs: Any = adata.obs
    counts = pd.crosstab(donors, obs[_keys.PRED])
    return counts.assign(n_cells=counts.sum(axis=1)).rename_axis(columns=None).reset_index()


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    f.__name__: f for f in (demo, corpus, check, pretrain, finetune, predict, signature)
}


def after_interruption(command: str, options: Mapping[str, Any]) -> str:
    """How to go on after Ctrl-C."""
    if command == "corpus":
        return "The same command goes on after the last finished part."
    if command in ("pretrain", "finetune"):
        folder = options["checkpoint_dir"]
        if folder is None:
            return (
                "No model was written; with --checkpoint-dir the same command goes on where it was."
            )
        return (
            f"No model was written; the same command goes on from the last checkpoint in "
            f"{folder}, if there is one yet."
        )
    if command == "predict" and Path(options["data"]).is_dir():
        return "The same command goes on where it was."
    return "Start the same command again."


def _genes_and_bins(vocab: Path) -> tuple[Any, dict[str, Any] | None]:
    """A file of genes; or those that the totals of a saved model are of, and how it bins."""
    if not vocab.is_dir():
        return vocab, None
    from scbert_cll.model.exchange import folder as exchange_folder

    saved = exchange_folder.load_folder(vocab)
    binning = saved["config"]["binning"] | (
        {} if saved["edges"] is None else {"edges": saved["edges"]}
    )
    asked = {name: binning["params"][name] for name in ("method", "n_bins", "target_sum")}
    hidden = [
        gene
        for gene in saved["config"]["setup"]["exclude_genes"]
        if gene not in set(saved["genes"])
    ]
    return [*saved["genes"], *hidden], {
        "edges": binning,
        **asked,
    }  # totals are of those it is not shown, too


def _shard(text: str) -> tuple[int, int]:
    """Which share of how many: 0/4 is the first of four."""
    place, slash, number = text.partition("/")
    if not (slash and place.isdigit() and number.isdigit() and int(place) < int(number)):
        raise ValueError(
            f"--shard must be a share such as 0/4, the first of four, to 3/4, the last; found "
            f"{text!r}."
        )
    return int(place), int(number)
