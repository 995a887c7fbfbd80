"""What the commands share: where cells come from, what may be replaced, and what is said."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from scbert_cll import _keys, _names
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._cli.reading import ENDINGS, Cells, Reading, is_cells, read
from scbert_cll._disk.in_place import settle
from scbert_cll._process import to_change

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scbert_cll.model import ScBERT, ScBERTClassifier

Value = int | float | bool | str
Accelerator = Literal["auto", "cpu", "gpu"]

_log = logging.getLogger(__name__)
_GENE: Final = "ITGA4"  # of CD49d
_PACKAGE: Final = Path(__file__).parents[1]


def source(path: Path, asked: Reading, *columns: str | None) -> Path | Cells:
    """Cells in memory, or a corpus, which stays on disk; a damaged one is refused now."""
    from scbert_cll import _checks
    from scbert_cll._corpus.format import open_corpus

    if is_cells(path):
        found = read(path, asked, columns=columns)
        for news in found.news:
            say(news)
        return found
    if not path.is_dir() and path.exists():
        _checks.paths.plain_file(path)
        choice(path.suffix, ENDINGS, "What is no corpus must be a file of cells: its ending")
    open_corpus(path)
    only_of_cells(path, **dict.fromkeys(asked.given(), True))
    return path


def only_of_cells(corpus: Path, **given: bool) -> None:
    """Nothing is asked for that only a file of cells has."""
    if names := [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{', '.join(names)}: {corpus} is a corpus, whose genes, bins, cells and donors "
            f"were chosen when it was built. Leave this out."
        )


def only_of_a_corpus(file: Path, **given: bool) -> None:
    """Nothing is asked for that only a corpus has."""
    if names := [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{', '.join(names)}: only for a corpus, and {file} is a file of cells. Leave this out."
        )


def typed_column(cells: Cells, option: str, key: str | None, default: str | None) -> str | None:
    """A column of obs: the one that was asked for, which must be there.

    Else the usual one, where there is one.
    """
    if key is not None:
        key_in(key, cells.rna.obs, "adata.obs", f"Name the column with {option}.")
        return key
    return default if default in cells.rna.obs else None


def typed_gene(adata: AnnData, gene: str | None, default: str | None = _GENE) -> str | None:
    """The marker's gene: the one that was asked for, which must be there.

    Else the usual one, where it is there.
    """
    if gene is not None:
        key_in(
            gene, adata.var_names, "adata.var_names", "Name the gene with --gene, or leave it out."
        )
        return gene
    return default if default in adata.var_names else None


def of_donors(asked: Reading) -> Reading:
    """What is read where donors are needed: without another name they are in the usual column."""
    return replace(asked, donor_key=asked.donor_key or _keys.DONOR)


def with_tokens(
    cells: Cells, asked: Reading, model: ScBERT | ScBERTClassifier | None = None
) -> AnnData:
    """The cells with the layer of tokens that is to be read: the one in the file, or made of the raw counts that --layer names."""
    from scbert_cll import _checks, pp
    from scbert_cll.model._inference import hidden_genes

    rna, name = cells.rna, _keys.BINNED if model is None else str(model.layer)
    if asked.layer is None:
        remedy = (
            "Bin the cells with pp.bin_expression; or name the raw counts with --layer (X, a "
            "layer, or raw), and they are binned now."
        )
        key_in(name, rna.layers, "adata.layers", remedy)
        return rna
    if cells.layer is not None and _checks.counts.is_binned(rna, cells.layer):
        if cells.layer != name:
            rna.layers[name], rna.uns[name] = rna.layers[cells.layer], rna.uns[cells.layer]
        return rna
    if model is None:
        pp.bin_expression(rna, layer=cells.layer, key_added=name)
        say(f"Raw counts were binned (pp.bin_expression) in {rna.n_vars:,} genes.")
        return rna
    aligned = pp.align_genes(
        rna, [*model.genes, *hidden_genes(model)], layer=cells.layer
    )  # of these are the totals
    aligned.layers.pop(name, None)
    pp.bin_expression(aligned, layer=cells.layer, edges=model.binning, key_added=name)
    n = int(aligned.var[_keys.IN_QUERY].loc[model.genes].sum())
    say(
        f"Raw counts were aligned to the model's genes ({n:,} of {len(model.genes):,} are "
        f"there) and binned as its own were."
    )
    return aligned


def results_to(cells: AnnData, tokens: AnnData) -> None:
    """Take what is new in an object that was aligned to a model back to the one that was read."""
    if tokens is cells:
        return
    made = (
        _keys.PRED,
        _keys.SCORE,
        _keys.PROBA,
        _keys.LINEAR_PROBA,
        _keys.X_SCBERT,
        _keys.SCBERT,
        _names.LONG,
    )
    for slot in ("obs", "obsm", "uns"):
        mine, theirs = getattr(cells, slot), getattr(tokens, slot)
        for key in theirs:
            if key not in mine or key in made:
                mine[key] = theirs[key]


def with_protein(cells: Cells, tokens: AnnData, key: str) -> str:
    """Where the counts of all proteins are in obsm.

    Those of a modality, whose names may be anything, are put there without them.
    """
    from scbert_cll.pp import _protein

    if cells.rna_key is None:
        key_in(key, tokens.obsm, "adata.obsm", "Name the protein counts with --protein-key.")
        return key
    found = _protein.find(cells.data, key, cells.rna_key)
    tokens.obsm[key] = found.values.toarray()
    return key


def with_split(cells: Cells, key: str | None, labels_key: str | None = None) -> str | None:
    """The column of the split; without one, donors that are known are held out now."""
    from scbert_cll import pp

    found = typed_column(cells, "--split-key", key, _keys.SPLIT)
    if found is not None or cells.donor_key is None:
        return found
    shares = (0.9, 0.1, 0.0) if labels_key is None else (0.7, 0.15, 0.15)
    pp.split_donors(
        cells.rna,
        cells.donor_key,
        labels_key=labels_key,
        fractions=shares,
        mixed=labels_key is not None,
    )
    donors = cells.rna.uns[_keys.SPLIT]["donors"]
    held = {
        part: ", ".join(donors.loc[donors["split"] == part, "donor"].astype(str))
        for part in (_keys.VAL, _keys.TEST)
    }
    said = [f"{names} ({part})" for part, names in held.items() if names]
    say(f"There is no split, so donors are held out: {'; '.join(said)}.")
    return _keys.SPLIT


def model_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it."""
    from scbert_cll.model.exchange import folder

    can_write(path)
    settle(path)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists. Name another folder with --out, or pass --overwrite to replace "
            f"the model in it."
        )
    folder.may_replace(path, overwrite=overwrite)


def new_file(path: Path, endings: Sequence[str], *, overwrite: bool) -> None:
    """A place for a file of one of these endings."""
    choice(path.suffix, endings, "The ending of --out")
    can_write(path)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists. Name another file with --out, or pass --overwrite to replace it."
        )


def new_folder_of(path: Path, names: Collection[str] | None, what: str, *, overwrite: bool) -> None:
    """A place for files of these names (or of any): nothing is replaced without being asked to."""
    can_write(path / "file")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. Name a folder with --out.")
    there = sorted(file.name for file in path.iterdir()) if path.exists() else []
    found = [name for name in there if names is None or name in names]
    if found and not overwrite:
        raise FileExistsError(
            f"{path} exists. Name another folder with --out, or pass --overwrite to replace "
            f"{what} in it; it has {listed(found, 3)}."
        )


def can_write(path: Path) -> None:
    """The place can be written to, as far as its folders tell."""
    parent = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    if not parent.is_dir():
        raise FileExistsError(
            f"{parent} is a file, so nothing can be put into it. Name another place with --out."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise FileExistsError(f"{parent} cannot be written to. Name another place with --out.")


def save(model: ScBERT | ScBERTClassifier, path: Path, *, overwrite: bool) -> None:
    """Write a model, where several processes trained it by the first of them."""
    if not first_process():
        return
    model.save(path, overwrite=overwrite)
    say(f"The model is in {path}.")


def say(text: str) -> None:
    """Print, where several processes run by the first of them."""
    if first_process():
        _log.info(text)


def first_process() -> bool:
    """Whether this is the one that writes."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def table(frame: pd.DataFrame) -> str:
    """Rows as text."""
    return frame.to_string(index=False, float_format="{:.3f}".format)


def only_our_news() -> None:
    """Leave out what Lightning says of itself; what this package says through it stays."""
    import lightning.pytorch  # noqa: F401

    to_change("lightning").handlers.clear()  # the root has one, too
    to_change("lightning.fabric").setLevel(logging.WARNING)
    log = to_change("lightning.pytorch.utilities.rank_zero")
    log.addFilter(
        lambda record: record.levelno > logging.INFO or _PACKAGE in Path(record.pathname).parents
    )


def known_choices(network: dict[str, Value] | None, *others: str) -> None:
    """Single choices of the network by their names."""
    from scbert_cll.model._network import check_network

    check_network(network or {}, *others)


def known_device(accelerator: Accelerator) -> None:
    """A device that is here."""
    from scbert_cll.model.training.arguments import device_of

    device_of(accelerator)


def learned(model: ScBERT) -> str:
    """What pretraining came to, beside what costs nothing."""
    best = {
        name: float(frame.iloc[:, 0].max())
        for name, frame in (model.history or {}).items()
        if "accuracy" in name
    }
    part = "validation" if "masked_accuracy_validation" in best else "train"
    return (
        f"{best[f'masked_accuracy_{part}']:.1%} of hidden genes in the right bin at best ({part}); "
        f"guessing each cell's commonest bin gets {best[f'majority_accuracy_{part}']:.1%}."
    )


def validated(model: ScBERTClassifier) -> str:
    """What the network came to on donors that it has not learned from."""
    kept = model.kept_epoch_
    found = {
        name.removesuffix("_validation"): float(frame.iloc[:, 0][kept])
        for name, frame in (model.history or {}).items()
        if "validation" in name and kept in frame.index
    }
    if not found:
        return "No donor validates, so nothing is known of its worth."
    values = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return (
        f"Donors held out, in epoch {kept}, whose weights are kept: {values} (the network alone)."
    )
