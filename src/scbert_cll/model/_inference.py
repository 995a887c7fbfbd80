"""Cells through a network: genes found by name, batches on its device, results in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._bar import Bar
from scbert_cll._checks.words import number_in
from scbert_cll._threads import calm
from scbert_cll.model import _finite
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import usable
from scbert_cll.model.training.batches import Cells, TokenRows, in_order_of_length, take_columns
from scbert_cll.model.training.memory import enough_memory
from scbert_cll.nn.performer import mean_tokens

logger = logging.getLogger(__name__)

# Numbers in one tensor of an inference batch (cells × tokens × width): 64 MB in float32 on a CPU, 1
# GB on a GPU; in the short modes 4 MB on a CPU, whose caches hold that: the small network embeds
# cells of 1,000 genes 1.5 times as fast as with 64 MB.
_NUMBERS_PER_BATCH: Final = {"cpu": 2**24, "cuda": 2**28}
_SHORT_ON_CPU: Final = 2**20
# of all heads together: one thread is enough for it, and threads would wait more than work
_SMALL_WIDTH: Final = 128

Infer = Callable[..., Sequence[Tensor]]


def calm_for(model: Network) -> AbstractContextManager[None]:
    """No thread spins while a network of this size is at work."""
    return calm(small=model.config.n_heads * model.config.dim_head <= _SMALL_WIDTH)


def cells_of(model: Network, adata: AnnData | None) -> AnnData:
    """Cells that were given, or those the model was made with."""
    if adata is None and model.adata is None:
        raise ValueError(
            "This model was loaded without cells; name them (adata=…), or attach them: "
            "load(folder, adata)."
        )
    return _checks.adata.anndata(model.adata if adata is None else adata)


def token_rows(
    model: Network, adata: AnnData | None, *, seed: int = 0, **columns: np.ndarray
) -> TokenRows:
    """Tokens of the model's genes, found by name: other orders and extra genes do not matter."""
    adata = cells_of(model, adata)
    csr, record = _checks.tokens.tokens(adata, model.layer)
    refuse_other_tokens(model, record, adata, f"adata.layers[{model.layer!r}]")
    csr = take_columns(csr, adata.var_names.get_indexer(model.genes))
    if model.config.tokens != "all":
        _checks.tokens.tokens_in_every_cell(np.diff(csr.indptr), adata, model.layer)
    return TokenRows(csr, model.config, seed=seed, **columns)


def refuse_other_tokens(
    model: Network,
    record: Mapping[str, Any],
    adata: AnnData,
    where: str,
    *,
    is_corpus: bool = False,
) -> None:
    """Refuse tokens of other edges or totals than the model's, or without most of its genes."""
    remedy = "pp.build_corpus(…, edges=model.binning)" if is_corpus else ""
    _checks.tokens.same_binning(record, model.binning, where, remedy)
    missing = _checks.genes.model_genes(model.genes, adata, is_corpus=is_corpus)
    _tell_missing(model, missing, str(adata.obs_names[0]) if adata.n_obs else "0")
    _checks.tokens.same_totals(
        record["params"],
        adata.var_names,
        model.binning["params"],
        model.genes,
        hidden_genes(model),
        where,
        is_corpus=is_corpus,
    )


def hidden_genes(model: Network) -> list[str]:
    """Genes that are in the totals of a model's tokens, and that it is not shown."""
    return list(model.registry["setup_args"]["exclude_genes"])


def _tell_missing(model: Network, missing: pd.Index, first_cell: str) -> None:
    """Log how many of the model's genes are there, once for cells that are read repeatedly."""
    if (len(missing), first_cell) != model.missing_:
        model.missing_ = (len(missing), first_cell)
        level = logging.INFO if len(missing) else logging.DEBUG
        n = len(model.genes)
        logger.log(level, "%d of the model's %d genes are in the data", n - len(missing), n)


def batches(
    model: Network, data: TokenRows, batch_size: int | None, what: str
) -> Iterator[tuple[Cells, np.ndarray]]:
    """All cells once, on the model's device, and their rows; a bar on a terminal says `what`."""
    usable(model.module.state_dict())
    if model.linear_ is not None:
        usable(model.linear_.arrays(), "The logistic regression beside the network")
    if batch_size is not None:
        number_in(batch_size, "batch_size", 1, np.inf, whole=True)
    config, device = model.config, model.module.device
    width = config.n_hidden if config.attention == "favor" else 3 * config.n_heads * config.dim_head
    at_a_time = _NUMBERS_PER_BATCH.get(device.type, _NUMBERS_PER_BATCH["cpu"])
    if device.type == "cpu" and config.tokens != "all":
        at_a_time = _SHORT_ON_CPU
    n_fitting = at_a_time // (width * int(data.n_tokens().max()))
    loader = in_order_of_length(data, batch_size or int(np.clip(n_fitting, 1, 256)))
    model.module.eval()
    for batch in Bar(loader, desc=what, unit="batch", leave=None, disable=None):
        rows = batch["rows"].split([len(cells["tokens"]) for cells in batch["cells"]])
        for cells, their_rows in zip(batch["cells"], rows, strict=True):
            yield {name: tensor.to(device) for name, tensor in cells.items()}, their_rows.numpy()


@torch.inference_mode()
def collect(
    model: Network,
    data: TokenRows,
    batch_size: int | None,
    widths: Sequence[int],
    infer: Infer,
    names: pd.Index | None = None,
) -> list[np.ndarray]:
    """Results of `infer` for every cell, in the order of the cells: float32 (cells, width) each.

    Of cells without `names` a refusal tells the number.
    """
    results = [np.empty((len(data), width), np.float32) for width in widths]
    with calm_for(model):
        for cells, rows in batches(model, data, batch_size, "cells"):
            with enough_memory(model.config, batch_size, training=False):
                tensors = infer(**cells)
            for values, tensor in zip(results, tensors, strict=True):
                values[rows] = tensor.float().cpu().numpy()
    for values in results:
        _finite.results(values, pd.RangeIndex(len(data)) if names is None else names)
    return results


def get_latent_representation(
    model: Network, adata: AnnData | None = None, *, batch_size: int | None = None
) -> np.ndarray:
    """Embed cells: the mean over a cell's refined tokens.

    Parameters
    ----------
    adata
        Cells with the binned layer; genes are matched by name. None: the AnnData the model was
        made with.
    batch_size
        Cells at a time; affects speed and memory, not results.

    Returns
    -------
    float32 (cells, n_hidden).
    """

    def embed(
        tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> list[Tensor]:
        return [mean_tokens(model.module.encode(tokens, genes, weight), weight)]

    rows, names = token_rows(model, adata), cells_of(model, adata).obs_names
    return collect(model, rows, batch_size, [model.config.n_hidden], embed, names)[0]
