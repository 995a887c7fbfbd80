"""What both models share of going to scBERT and coming from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, pp
from scbert_cll._checks.words import UnknownArgumentError, hint, listed
from scbert_cll._disk.formats import Json
from scbert_cll.model import _scvi
from scbert_cll.model._protocols import Network
from scbert_cll.model.exchange.scbert_file import Checkpoint
from scbert_cll.model.exchange.scbert_layout import write_scbert_checkpoint
from scbert_cll.model.explain.attention import get_attention_floor
from scbert_cll.model.training.devices import device_of
from scbert_cll.model.training.options import choices
from scbert_cll.nn import favor
from scbert_cll.vocab import GeneVocab, Vocabulary

# What the layout takes for granted, and what whoever reads the file does unless told otherwise.
_PUBLISHED: Final = {"out_bias": True, "end_token": True}
_UNSAID: Final = {"tokens": "all", "attention": "favor", "stabilizer": "cell"}
_OF_BINNING: Final = ("method", "target_sum")
# everything else shapes the weights
_CHOICES: Final = {*_UNSAID, "dropout", "n_background", "train_gene_embedding"}

# Share of the genes a simulated cell expresses, and how many cells tell whether attention is
# uniform (seconds each at full size).
_EXPRESSED: Final = 0.09
_N_CELLS: Final = 2
_SIMULATED: Final = f"in a simulated cell that expresses {_EXPRESSED:.0%} of the genes"


def to_scbert_checkpoint(
    model: Network, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the weights as a checkpoint that scBERT reads.

    The file holds weights alone. Keep the genes beside it
    (``GeneVocab(model.genes).save("genes.txt")``), and the classes of a classifier:
    :meth:`from_scbert_checkpoint` asks for them. :meth:`save` forgets nothing.

    Parameters
    ----------
    path
        The file, usually ``.pth``; it appears whole or not at all.
    overwrite
        Replace a file that is there.

    Raises
    ------
    FileExistsError
        The file exists and `overwrite` is False, or it is a folder.
    ValueError
        scBERT's layout has no place for this network: it has no end token, no bias behind the
        attention or another head.

    Warns
    -----
    UserWarning
        The network or its tokens are used in another way than scBERT does, which a checkpoint
        cannot say.
    """
    path = Path(path)
    _checks.files.new_file(path, overwrite=overwrite)
    published = _PUBLISHED | ({"head": "scbert"} if model.config.n_classes else {})
    network = {name: getattr(model.config, name) for name in published}
    other = [name for name in network if network[name] != published[name]]
    if unfit := [f"{name}={network[name]!r}" for name in other]:
        remedy = ", ".join(f"{name}={value!r}" for name, value in published.items())
        raise ValueError(
            f"A checkpoint of scBERT cannot hold this network: {listed(unfit)}. Train one with "
            f'{remedy}, as preset="scbert" does; or keep this one with .save(folder).'
        )
    if unsaid := _unsaid(model):
        warnings.warn(
            f"A checkpoint cannot say {listed(unsaid, 8)}: whoever reads it takes scBERT's "
            f"choices, and gets other results.",
            stacklevel=2,
        )
    write_scbert_checkpoint(path, model.module.state_dict(), model.config)


def _unsaid(model: Network) -> list[str]:
    """Choices that matter, differ from scBERT's, and have no place in the file."""
    config, binning = model.config, model.binning["params"]
    published = _binning(config.n_bins, model.genes)["params"]
    pairs = [(name, getattr(config, name), _UNSAID[name]) for name in _UNSAID]
    pairs += [(f"binning's {key}", binning[key], published[key]) for key in _OF_BINNING]
    unsaid = ((name, ours, theirs) for name, ours, theirs in pairs if ours != theirs)
    return [f"{name}={ours!r} (scBERT: {theirs!r})" for name, ours, theirs in unsaid]


def from_checkpoint[M: Network](
    cls: type[M],
    path: str | os.PathLike[str],
    vocab: Vocabulary,
    gene2vec: pd.DataFrame | None,
    adata: AnnData | None,
    layer: str,
    accelerator: str,
    network: Json,
    labels: Mapping[str, Any] = {},
) -> M:
    """What both models share of `from_scbert_checkpoint`.

    `labels` has the arguments of a classifier.
    """
    place = device_of(accelerator)
    if other := sorted(set(network) - _CHOICES):
        raise UnknownArgumentError(
            f"{listed(other)} would not fit the checkpoint's weights; you may choose "
            f"{listed(sorted(_CHOICES), 8)}.{hint(other, _CHOICES)}"
        )
    genes, checkpoint = GeneVocab.of(vocab).names, Checkpoint(path)
    checkpoint.check(genes, gene2vec, labels.get("classes"))
    config = checkpoint.config(len(genes))
    of_labels = {name: value for name, value in labels.items() if name != "classes"}
    setup = {"layer": layer, "exclude_genes": [], **of_labels}
    network = {**choices(config), **network, "binning": _binning(config.n_bins, genes)}
    model = _scvi.detached(cls, genes, setup, labels, **network)
    weights = checkpoint.weights(genes, gene2vec)
    model.module.load_state_dict(model.module.state_dict() | weights)
    model.module.to(place)
    model.is_trained_ = True
    if adata is not None:
        _scvi.attach(model, _checks.adata.anndata(adata))
    _warn_if_uniform(model, adata)
    return model


def _warn_if_uniform(model: Network, adata: AnnData | None) -> None:
    if model.config.attention != "favor":
        return
    where = _SIMULATED if adata is None else "in these cells"
    cells = _simulated_cell(model) if adata is None else adata
    floor = get_attention_floor(model, cells, n_cells=_N_CELLS).min()
    if floor > favor.UNIFORM:
        warnings.warn(
            f"Attention of the checkpoint's network is nearly uniform {where}: in every layer at "
            f"least {floor:.0%} of its features are their constant floor, so gene attention will "
            f"mostly say which genes are there.",
            stacklevel=4,
        )


def _simulated_cell(model: Network) -> AnnData:
    """One cell that expresses some genes, at random levels."""
    rng, n_genes = np.random.default_rng(0), len(model.genes)
    expressed = rng.choice(n_genes, max(1, round(_EXPRESSED * n_genes)), replace=False)
    tokens = np.zeros((1, n_genes), np.uint8)
    tokens[0, expressed] = rng.integers(1, model.config.n_bins + 1, len(expressed))
    layers, uns = {model.layer: sparse.csr_matrix(tokens)}, {model.layer: model.binning}
    return AnnData(layers=layers, var=pd.DataFrame(index=model.genes), uns=uns)


def _binning(n_bins: int, genes: pd.Index) -> Json:
    """What `pp.bin_expression` writes down for scBERT's tokens of these genes."""
    cell = AnnData(np.ones((1, len(genes))), var=pd.DataFrame(index=genes))
    pp.bin_expression(cell, method="log2", n_bins=n_bins, target_sum=1e4)
    record: Json = cell.uns[_keys.BINNED]
    return record
