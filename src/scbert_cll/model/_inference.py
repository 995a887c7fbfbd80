"""Cells through a model: genes found by name, batches on its device, results in their order.

Classes are the network's and the logistic regression's that is fitted beside it.
``combine="none"`` keeps the regression for comparison only. ``"average"`` takes the mean of both
log-probabilities. With ``"residual"`` the linear logits are part of the network's: it learns what
they leave to be learned, starts from nothing, and stays there if no epoch is better.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.special import log_softmax, softmax
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import listed, number_in
from scbert_cll._process import Bar, calm
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model._tensors import usable
from scbert_cll.model.training.batches import Cells, TokenRows, in_order_of_length, take_columns
from scbert_cll.model.training.devices import enough_memory
from scbert_cll.nn.performer import mean_tokens

logger = logging.getLogger(__name__)

# Numbers in one tensor of an inference batch (cells × tokens × width): 64 MB in float32 on a CPU, 1
# GB on a GPU; in the short modes 4 MB on a CPU, whose caches hold that: the small network embeds
# cells of 1,000 genes 1.5 times as fast as with 64 MB.
_NUMBERS_PER_BATCH: Final = {"cpu": 2**24, "cuda": 2**28}
_SHORT_ON_CPU: Final = 2**20
# of all heads together: one thread is enough for it, and threads would wait more than work
_SMALL_WIDTH: Final = 128
# numbers of genes that differ by less make much the same totals; where their names are not known
_ABOUT: Final = 0.1
_MANY_HIDDEN: Final = 0.05  # of the genes of a total
# of the network in an average; choosing it on validation cells was no better, on few of them worse
_SHARE: Final = 0.5

type Binning = Mapping[str, Any]  # what `pp.bin_expression` recorded
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
    csr, record = _checks.counts.tokens(adata, model.layer)
    where = f"adata.layers[{model.layer!r}]"
    refuse_other_tokens(model, record, adata, where, is_corpus=False)
    csr = take_columns(csr, adata.var_names.get_indexer(model.genes))
    empty = adata.obs_names[np.diff(csr.indptr) == 0]
    if not model.config.every_gene and len(empty):
        raise ValueError(
            f"{len(empty)} cells have no gene above bin 0 among the model's genes in {where} "
            f"({listed(empty)}); remove them first."
        )
    return TokenRows(csr, model.config, seed=seed, **columns)


def refuse_other_tokens(
    model: Network, record: Binning, adata: AnnData, where: str, *, is_corpus: bool
) -> None:
    """Refuse tokens of other edges or totals than the model's, or without most of its genes."""
    _refuse_other_cuts(model, record, where, is_corpus=is_corpus)
    missing = _checks.genes.model_genes(model.genes, adata, is_corpus=is_corpus)
    logged, n, n_absent = model.missing_, len(model.genes), len(missing)
    model.missing_ = n_absent, str(adata.obs_names[0]) if adata.n_obs else "0"
    if model.missing_ != logged:  # once for cells that are read repeatedly
        level = logging.INFO if n_absent else logging.DEBUG
        logger.log(level, "%d of the model's %d genes are in the data", n - n_absent, n)
    _refuse_other_totals(model, record, adata.var_names, where, is_corpus=is_corpus)


def _refuse_other_cuts(model: Network, record: Binning, where: str, *, is_corpus: bool) -> None:
    """Refuse tokens that were cut in another way than the model's training data."""
    params, expected = record["params"], model.binning["params"]
    differing = [
        f"{name} is {params.get(name)!r}, the model has {expected.get(name)!r}"
        for name in ("method", "n_bins", "target_sum")
        if params.get(name) != expected.get(name)
    ]
    if not differing and not _are_same_edges(record["edges"], model.binning["edges"]):
        differing = ["its edges were learned from other cells"]
    if differing:
        call = "pp.build_corpus(…" if is_corpus else "pp.bin_expression(adata"
        raise ValueError(
            f"{where} was binned differently from the model's training data: "
            f"{'; '.join(differing)}. Bin the counts again like the model's: {call}, "
            "edges=model.binning)."
        )


def _are_same_edges(edges: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        if not isinstance(edges, pd.DataFrame):
            return False
        genes = expected.index.intersection(edges.index)
        edges, expected = edges.loc[genes], expected.loc[genes]
    edges, expected = np.asarray(edges, float), np.asarray(expected, float)
    return edges.shape == expected.shape and np.allclose(edges, expected)


def _refuse_other_totals(
    model: Network, record: Binning, names: pd.Index, where: str, *, is_corpus: bool
) -> None:
    """Refuse tokens cut from totals of other genes than the model's: the same cell has others then.

    `names` are the genes of the cells; these, and the model's, name the genes of a total where
    their checksum is the recorded one. Cells that lack some genes of the model are right: an absent
    gene counts nothing.
    """
    params, expected, digest = record["params"], model.binning["params"], "genes_digest"
    if digest not in params or digest not in expected:
        who = where if digest not in params else "the model"
        warnings.warn(
            f"{who} does not say of which genes the totals were that its tokens were cut from "
            "(an older version made it), so it is not known whether they fit. Make sure that both "
            "were binned with the same genes.",
            stacklevel=3,
        )
        return
    if params[digest] == expected[digest]:
        return
    hidden = hidden_genes(model)
    whole = model.genes.append(pd.Index(hidden).difference(model.genes))
    n_ours, n_theirs = int(params["n_genes"]), int(expected["n_genes"])
    are_ours_named = _checks.counts.totals_of(names)[digest] == params[digest]
    are_theirs_named = _checks.counts.totals_of(whole)[digest] == expected[digest]
    why = ""
    if are_ours_named and are_theirs_named:
        others = names[~names.isin(whole)]
        if not len(others):
            # genes that a model is not shown are in its totals, and easily forgotten
            absent = [gene for gene in hidden if gene not in names]
            if len(absent) > _MANY_HIDDEN * len(whole):
                warnings.warn(
                    f"The model's totals hold {len(absent)} genes that it is not shown "
                    f"({listed(absent, 3)}), and {where} was binned without them. If they were "
                    "measured, align to these, too: pp.align_genes(adata, [*model.genes, "
                    "*model.registry['setup_args']['exclude_genes']]).",
                    stacklevel=3,
                )
            return
        why = f", {len(others)} of them not among the model's: {listed(others, 3)}"
    elif abs(n_ours - n_theirs) <= _ABOUT * n_theirs:
        warnings.warn(
            f"{where} was binned with {n_ours:,} genes and the model's training data with "
            f"{n_theirs:,} others, which are not all known by name. Their totals are taken to be "
            "alike.",
            stacklevel=3,
        )
        return
    remedy = (
        f"Bin the cells with all {n_theirs:,} genes or so that the model's were binned with, "
        "before genes are chosen."
    )
    if are_theirs_named:
        genes = "list(model.genes)"
        if hidden:
            genes = f"[*model.genes, {', '.join(map(repr, hidden))}]"
        remedy = (
            "Bring the counts to the model's genes and bin them again: adata = "
            f"pp.align_genes(adata, {genes}); pp.bin_expression(adata, edges=model.binning)."
        )
        if is_corpus:
            build = f"pp.build_corpus(…, vocab={genes}, edges=model.binning)"
            remedy = f"Build a corpus of the model's genes: {build}."
    raise ValueError(
        f"{where} was cut from totals of {n_ours:,} genes{why}; the model's training data from "
        f"totals of {n_theirs:,} genes. The same cell gets other tokens. {remedy}"
    )


def hidden_genes(model: Network) -> list[str]:
    """Genes that are in the totals of a model's tokens, and that it is not shown."""
    return list(model.registry["setup_args"]["exclude_genes"])


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
    width = config.n_hidden
    if config.attention == "exact":
        width = 3 * config.n_heads * config.dim_head
    at_a_time = _NUMBERS_PER_BATCH.get(device.type, _NUMBERS_PER_BATCH["cpu"])
    if device.type == "cpu" and not config.every_gene:
        at_a_time = _SHORT_ON_CPU
    n_fitting = at_a_time // (width * int(data.n_tokens().max()))
    loader = in_order_of_length(data, batch_size or int(np.clip(n_fitting, 1, 256)))
    model.module.eval()
    for batch in Bar(loader, desc=what, unit="batch", leave=None, disable=None):
        rows = batch["rows"].split([len(cells["tokens"]) for cells in batch["cells"]])
        for cells, of_cells in zip(batch["cells"], rows, strict=True):
            on_device = {name: tensor.to(device) for name, tensor in cells.items()}
            yield on_device, of_cells.numpy()


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
    names = pd.RangeIndex(len(data)) if names is None else names
    for values in results:
        bad = names[~np.isfinite(values).all(axis=1)]
        if len(bad):
            raise ValueError(
                f"The network gives no finite numbers for {len(bad)} of {len(names)} cells, the "
                f"first of them {str(bad[0])!r}: they overflow on the way. Its weights are too "
                f"large; train it anew with a smaller lr=."
            )
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

    def embed(**cells: Tensor) -> list[Tensor]:
        return [mean_tokens(model.module.encode(**cells), cells.get("weight"))]

    rows, names = token_rows(model, adata), cells_of(model, adata).obs_names
    return collect(model, rows, batch_size, [model.config.n_hidden], embed, names)[0]


# ---- classes


class Predictions(NamedTuple):
    """Probabilities (cells × classes) of the whole, the network and the linear part; embeddings."""

    joined: pd.DataFrame
    network: pd.DataFrame
    linear: pd.DataFrame | None
    latent: np.ndarray


def predict(
    model: Classifier,
    adata: AnnData | None = None,
    *,
    soft: bool = False,
    batch_size: int | None = None,
) -> pd.Series | pd.DataFrame:
    """Class of each cell; labels are not read.

    Parameters
    ----------
    adata, batch_size
        As in :meth:`get_latent_representation`.
    soft
        Return the probabilities of all classes instead.

    Returns
    -------
    Categorical Series over the cells, or with `soft` a float32 DataFrame cells × classes whose rows
    sum to 1.

    Raises
    ------
    RuntimeError
        The model has not been trained.
    """
    proba = predict_parts(model, adata, batch_size=batch_size).joined
    if soft:
        return proba
    best = proba.to_numpy().argmax(1)
    called = pd.Categorical.from_codes(best, pd.Index(model.classes))
    return pd.Series(called, index=proba.index)


def predict_and_embed(
    model: Classifier, adata: AnnData | None = None, *, batch_size: int | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Probabilities (cells × classes) and embeddings (cells, n_hidden), in one pass."""
    parts = predict_parts(model, adata, batch_size=batch_size)
    return parts.joined, parts.latent


def predict_parts(
    model: Classifier, adata: AnnData | None = None, *, batch_size: int | None = None
) -> Predictions:
    """Probabilities as they are predicted, of the network, of the logistic regression; embeddings.

    Parameters
    ----------
    adata, batch_size
        As in :meth:`get_latent_representation`.

    Returns
    -------
    Named tuple of ``joined``, ``network`` and ``linear`` (None in a model trained without), each a
    float32 DataFrame cells × classes, and ``latent``, float32 (cells, n_hidden).

    Raises
    ------
    RuntimeError
        The model has not been trained.
    """
    if not model.is_trained_:
        raise RuntimeError(
            "This classifier has not been trained; call .train() first, or load a trained one."
        )
    adata = cells_of(model, adata)
    data = token_rows(model, adata)
    network, latent = logits_and_latent(model, data, batch_size, adata.obs_names)
    linear = None if model.linear_ is None else model.linear_.logits(data.csr)

    def table(proba: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(proba.astype(np.float32), adata.obs_names, model.classes)

    return Predictions(
        table(joined_proba(model, network, linear)),
        table(softmax(network, axis=1)),
        None if linear is None else table(softmax(linear, axis=1)),
        latent,
    )


def logits_and_latent(
    model: Classifier, data: TokenRows, batch_size: int | None, names: pd.Index | None
) -> list[np.ndarray]:
    """The network's logits (cells, classes) and embeddings (cells, n_hidden), float32."""

    def classify(**cells: Tensor) -> tuple[Tensor, Tensor]:
        encodings, weight = model.module.encode(**cells), cells.get("weight")
        logits = model.module.head_logits(encodings, weight).float()
        return logits, mean_tokens(encodings, weight)

    widths = [len(model.classes), model.config.n_hidden]
    return collect(model, data, batch_size, widths, classify, names)


def joined_proba(model: Network, network: np.ndarray, linear: np.ndarray | None) -> np.ndarray:
    """Probabilities from the network's and the linear part's logits (cells, classes)."""
    if linear is None or model.combine == "none":
        logits = network
    elif model.combine == "residual":
        logits = network + linear
    else:
        ours, theirs = (log_softmax(part, axis=1) for part in (network, linear))
        logits = _SHARE * ours + (1 - _SHARE) * theirs
    return np.asarray(softmax(logits, axis=1))


def described(model: Network) -> Mapping[str, str | float] | None:
    """How a linear part takes part in predictions, for records and folders; None without one."""
    if model.linear_ is None:
        return None
    return {"combine": model.combine, "strength": model.linear_.strength}
