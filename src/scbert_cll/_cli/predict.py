"""The command predict: classes and embeddings of cells in a file or a corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scbert_cll import _keys, _names
from scbert_cll._checks.words import choice
from scbert_cll._cli import shared
from scbert_cll._cli.reading import Cells, ReadingTokens, is_cells
from scbert_cll._cli.shared import Accelerator, Arguments

if TYPE_CHECKING:
    from anndata import AnnData

_PARTS = (_keys.TRAIN, _keys.VAL)
_OF_A_CORPUS = {"groupby": None, "parts": _PARTS, "shard": (0, 1)}  # and their defaults
# results, which replace those in the file
_MADE = (
    *(_keys.PRED, _keys.SCORE, _keys.PROBA, _keys.LINEAR_PROBA),
    *(_keys.X_SCBERT, _keys.SCBERT, _names.LONG),
)


def predict(
    data: Path,
    *,
    model: Path,
    out: Path,
    reading: ReadingTokens,
    unassigned_below: float | None = None,
    batch_size: int | None = None,
    groupby: str | None = None,
    parts: Sequence[str] = _PARTS,
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
    chosen: Arguments = {"groupby": groupby, "parts": tuple(parts), "shard": share}
    from scbert_cll.model.training.devices import device_of

    device_of(accelerator)
    if is_cells(data):
        choice(out.suffix, [".h5ad"], "The ending of --out")
        if out.exists() and not overwrite:
            raise shared.taken(out, "file", "it")
        given = [name for name, usual in _OF_A_CORPUS.items() if chosen[name] != usual]
        shared.refuse_options(given, f"only for a corpus, and {data} is a file of cells")
    shared.can_write(out)
    cells = shared.source(data, reading)
    from scbert_cll import ScBERT, ScBERTClassifier, _checks, tl
    from scbert_cll._disk.cells import write_cells
    from scbert_cll.model.exchange.hub import class_of

    kind = ScBERT if class_of(model) == "ScBERT" else ScBERTClassifier
    loaded = kind.load(model, accelerator=accelerator)
    how: Arguments = {"unassigned_below": unassigned_below, "batch_size": batch_size}
    if not isinstance(cells, Cells):
        tl.predict_corpus(data, loaded, out, **how, **chosen)
        what = "predictions" if kind is ScBERTClassifier else "embeddings"
        later = f"This share is done; {out} appears with the last one."
        shared.say(f"The {what} are in {out}." if out.exists() else later)
        return
    tokens = shared.with_tokens(cells, reading, loaded)
    numbers = "embedded"
    if isinstance(loaded, ScBERTClassifier):
        tl.predict(tokens, loaded, **how)
        counts = tokens.obs[_keys.PRED].value_counts()
        numbers = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    else:
        if unassigned_below is not None:
            _checks.people.unassigned_needs_classes(None)
        latent = loaded.get_latent_representation(tokens, batch_size=batch_size)
        tokens.obsm[_keys.X_SCBERT] = latent
    if tokens is not cells.rna:
        for slot in ("obs", "obsm", "uns"):
            ours, theirs = getattr(cells.rna, slot), getattr(tokens, slot)
            for key in theirs:
                if key not in ours or key in _MADE:
                    ours[key] = theirs[key]
    write_cells(out, cells.rna)
    if cells.donor_key is not None and isinstance(loaded, ScBERTClassifier):
        shared.say(_by_donor(cells.rna, cells.donor_key))
    shared.say(f"{tokens.n_obs:,} cells: {numbers}. They are in {out}.")


def _shard(text: str) -> tuple[int, int]:
    """Number of a share and of all: 0/4 is the first of four."""
    share = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not share or int(share[1]) >= int(share[2]):
        raise ValueError(
            f"--shard must be a share such as 0/4, the first of four, to 3/4, the last; found "
            f"{text!r}."
        )
    return int(share[1]), int(share[2])


def _by_donor(adata: AnnData, donor_key: str) -> str:
    """Cells of each donor, and how many are predicted to be of each class, as text."""
    import pandas as pd

    from scbert_cll import _checks

    donors = _checks.people.donors(adata, donor_key, quiet=True).rename("donor")
    counts = pd.crosstab(donors, pd.Series(adata.obs[_keys.PRED]))
    counts = counts.assign(n_cells=counts.sum(axis=1)).rename_axis(columns=None)
    return shared.table(counts.reset_index())
