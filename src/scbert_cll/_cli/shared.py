"""What several commands share: the source of the cells, places to write to, and sentences."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._cli.reading import ENDINGS, Cells, Reading, is_cells, read
from scbert_cll._disk.in_place import settle

if TYPE_CHECKING:
    from anndata import AnnData

    from scbert_cll.model import ScBERT, ScBERTClassifier

Value = int | float | bool | str
Accelerator = Literal["auto", "cpu", "gpu"]

_log = logging.getLogger(__name__)
_GENE: Final = "ITGA4"  # of CD49d


def source(path: Path, reading: Reading, *columns: str | None) -> Path | Cells:
    """Cells in memory, or a corpus, which stays on disk; a damaged one is refused now."""
    from scbert_cll import _checks
    from scbert_cll._corpus.format import open_corpus

    if is_cells(path):
        cells = read(path, reading, columns=columns)
        for news in cells.news:
            say(news)
        return cells
    if not path.is_dir() and path.exists():
        _checks.paths.plain_file(path)
        choice(
            path.suffix, ENDINGS, "Input that is not a corpus must be a file of cells: its ending"
        )
    open_corpus(path)
    refuse_options(path, dict.fromkeys(reading.given(), True), of_cells=True)
    return path


def refuse_options(data: Path, given: dict[str, bool], *, of_cells: bool) -> None:
    """Refuse options that only a file of cells has, or only a corpus, for the other one."""
    if names := [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]:
        why = (
            f"{data} is a corpus, whose genes, bins, cells and donors were chosen when it was built"
            if of_cells
            else f"only for a corpus, and {data} is a file of cells"
        )
        raise ValueError(f"{', '.join(names)}: {why}. Leave this out.")


def typed_column(cells: Cells, option: str, key: str | None, default: str | None) -> str | None:
    """The obs column that was named, which must be there; else the usual one, where it is there."""
    if key is not None:
        key_in(key, cells.rna.obs, "adata.obs", f"Name the column with {option}.")
        return key
    return default if default in cells.rna.obs else None


def typed_gene(adata: AnnData, gene: str | None, default: str | None = _GENE) -> str | None:
    """The gene that was named, which must be there; else the usual one, where it is there."""
    if gene is not None:
        remedy = "Name the gene with --gene, or leave it out."
        key_in(gene, adata.var_names, "adata.var_names", remedy)
        return gene
    return default if default in adata.var_names else None


def of_donors(reading: Reading) -> Reading:
    """Options of a command that needs donors: by default they are in the usual column."""
    return replace(reading, donor_key=reading.donor_key or _keys.DONOR)


def with_tokens(
    cells: Cells, reading: Reading, model: ScBERT | ScBERTClassifier | None = None
) -> AnnData:
    """Cells with tokens: those in the file, or made of the raw counts that --layer names."""
    from scbert_cll import _checks, pp

    rna, name = cells.rna, _keys.BINNED if model is None else str(model.layer)
    if reading.layer is None:
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
    from scbert_cll.model._inference import hidden_genes

    genes = [*model.genes, *hidden_genes(model)]  # of these are the totals
    aligned = pp.align_genes(rna, genes, layer=cells.layer)
    aligned.layers.pop(name, None)
    pp.bin_expression(aligned, layer=cells.layer, edges=model.binning, key_added=name)
    n = int(aligned.var[_keys.IN_QUERY].loc[model.genes].sum())
    say(
        f"Raw counts were aligned to the model's genes ({n:,} of {len(model.genes):,} are "
        f"there) and binned as its own were."
    )
    return aligned


def free_folder(
    path: Path, contents: str, *, names: Collection[str] | None = None, overwrite: bool
) -> None:
    """Refuse a folder that has files of these names (or any), unless they are to be replaced."""
    can_write(path / "file")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. Name a folder with --out.")
    files = sorted(file.name for file in path.iterdir()) if path.exists() else []
    files = [name for name in files if names is None or name in names]
    if files and not overwrite:
        raise FileExistsError(
            _exists(path, "folder", f"{contents} in it; it has {listed(files, 3)}")
        )


def free_model_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no model can be written, before it is trained."""
    from scbert_cll.model.exchange import folder

    can_write(path)
    settle(path)
    if path.exists() and not overwrite:
        raise FileExistsError(_exists(path, "folder", "the model in it"))
    folder.may_replace(path, overwrite=overwrite)


def free_file(path: Path, ending: str, *, overwrite: bool) -> None:
    """Refuse a place where no file of this ending can be written."""
    choice(path.suffix, [ending], "The ending of --out")
    can_write(path)
    if path.exists() and not overwrite:
        raise FileExistsError(_exists(path, "file", "it"))


def _exists(path: Path, kind: str, contents: str) -> str:
    return (
        f"{path} exists. Name another {kind} with --out, or pass --overwrite to replace {contents}."
    )


def can_write(path: Path) -> None:
    """Refuse a place that cannot be written to, as far as its folders tell."""
    parent = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    why = "cannot be written to"
    if not parent.is_dir():
        why = "is a file, so nothing can be put into it"
    elif os.access(parent, os.W_OK | os.X_OK):
        return
    raise FileExistsError(f"{parent} {why}. Name another place with --out.")


def say(text: str) -> None:
    """Print, where several processes run by the first of them."""
    if first_process():
        _log.info(text)


def first_process() -> bool:
    """Whether this is the process that writes."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def donors_in(adata: AnnData, part: str) -> str:
    """Names of the donors in a part of the split, as text."""
    donors = adata.uns[_keys.SPLIT]["donors"]
    return ", ".join(donors.loc[donors["split"] == part, "donor"].astype(str))


def learned(model: ScBERT) -> str:
    """Accuracy that pretraining came to, next to the one that costs nothing."""
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
