"""What several commands share: cells or a corpus, places to write to, sentences, figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._cli.reading import ENDINGS, Cells, Reading, choose, is_cells, load
from scbert_cll._cli.words import flag
from scbert_cll._disk.formats import FigureError
from scbert_cll._disk.in_place import replace, settle
from scbert_cll._gene_names.resolver import gene_in_data

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scbert_cll.model import ScBERT, ScBERTClassifier

type Arguments = dict[str, Any]  # of the package's functions, which check them
Value = int | float | bool | str
Accelerator = Literal["auto", "cpu", "gpu"]

_log = logging.getLogger(__name__)


def source(path: Path, reading: Reading, **columns: str | Sequence[str] | None) -> Path | Cells:
    """Cells in memory, or a corpus, which stays on disk; a damaged one is refused now.

    Of the columns of obs, by their options, only that of the labels is for a corpus, too.
    """
    from scbert_cll import _checks
    from scbert_cll._corpus.format import open_corpus

    if is_cells(path):
        cells = choose(load(path), reading, columns, where=path)
        for news in cells.news:
            say(news)
        return cells
    if not path.is_dir() and path.exists():
        _checks.files.plain_file(path)
        what = "Input that is not a corpus must be a file of cells: its ending"
        choice(path.suffix, ENDINGS, what)
    open_corpus(path)
    columns.pop("labels_key", None)
    named = [option for option, key in columns.items() if key]
    why = "a corpus, whose genes, bins, cells and donors were chosen when it was built"
    refuse_options([*reading.given(), *named], f"{path} is {why}")
    return path


def refuse_options(given: Collection[str], why: str) -> None:
    """Refuse options that only a file of cells has, or only a corpus, for the other one."""
    if given:
        raise ValueError(f"{', '.join(map(flag, given))}: {why}. Leave this out.")


def typed_gene(adata: AnnData, gene: str | None, usual: str | None) -> str | None:
    """The gene that was named, which must be there; else the usual one, where it is there."""
    name = usual if gene is None else gene
    if name is None:
        return None
    name = gene_in_data(name, adata.var_names)
    if gene is not None:
        remedy = "Name the gene with --gene, or leave it out."
        key_in(name, adata.var_names, "adata.var_names", remedy)
    return name if name in adata.var_names else None


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
        for store in (rna.layers, rna.uns):
            store[name] = store[cells.layer]
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
        raise taken(path, "folder", f"{contents} in it; it has {listed(files, 3)}")


def free_model_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no model can be written, before it is trained."""
    from scbert_cll.model.exchange import folder

    can_write(path)
    settle(path)
    if path.exists() and not overwrite:
        raise taken(path, "folder", "the model in it")
    folder.may_replace(path, overwrite=overwrite)


def taken(path: Path, kind: str, contents: str) -> FileExistsError:
    """The refusal of a place where something is."""
    remedy = f"or pass --overwrite to replace {contents}"
    return FileExistsError(f"{path} exists. Name another {kind} with --out, {remedy}.")


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


def table(frame: pd.DataFrame, *, index: bool = False) -> str:
    """Rows as text: whole numbers without decimals, others with three."""

    def number(value: float) -> str:
        return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"

    return frame.to_string(index=index, float_format=number, na_rep="")


def draw(figures: Mapping[Path, Callable[[], Any]], say: Callable[[str], None]) -> None:
    """Draw figures to files when everything else is written; one that fails costs itself only.

    Raises
    ------
    FigureError
        At the end, if a figure could not be drawn.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    failed = []
    for path, plot in figures.items():
        try:
            figure = plot()
            save = partial(figure.savefig, dpi=200, bbox_inches="tight")
            replace(path, save, lambda aside: aside.stat().st_size > 0)
            plt.close(figure)
        except Exception as error:  # noqa: BLE001
            plt.close("all")
            path.unlink(missing_ok=True)  # of an earlier run
            failed.append(path.name)
            say(
                f"The figure {path.name} could not be drawn ({type(error).__name__}: "
                f"{' '.join(str(error).split())})."
            )
    if failed:
        raise FigureError(
            f"Everything is written but {', '.join(failed)}, which could not be drawn."
        )
