"""What each gene does to a class's logit, summed over the cells of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import choice
from scbert_cll.model._inference import batches, calm_for, cells_of, token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.explain.groups import coded, target_of
from scbert_cll.model.training.devices import enough_memory
from scbert_cll.nn import attribution
from scbert_cll.nn.performer import Performer

Method = Literal["gate_gradient", "gradient_input", "integrated_gradients", "rollout"]
METHODS: Final = ("gate_gradient", "gradient_input", "integrated_gradients", "rollout")


class Attribution(NamedTuple):
    """Mean attribution of each gene in each group, float64 (genes × groups).

    `size` is the mean absolute attribution over the `n_expressing` cells that express the gene;
    `error` how far the sum of a cell is from the change it stands for.
    """

    values: pd.DataFrame
    size: pd.DataFrame
    n_expressing: pd.DataFrame
    error: np.ndarray | None


def get_gene_attribution(
    model: Classifier,
    groups: pd.Series,
    adata: AnnData | None = None,
    *,
    method: Method = "gate_gradient",
    target: str | None = None,
    n_steps: int = 32,
    batch_size: int | None = None,
) -> Attribution:
    """Mean effect of each gene's token on the logit of a class, per group of cells.

    The logit is taken against the mean of those of the other classes.

    A gene without a token in a cell counts as zero there. Memory does not grow with the number
    of cells.

    Parameters
    ----------
    groups
        Group of each cell, in the order of the cells; cells without one are left out.
    adata, batch_size
        As in :meth:`get_latent_representation`.
    method
        ``"gate_gradient"``: derivative by how much the token counts, in attention and in
        pooling; the first order of leaving it out. ``"gradient_input"`` and
        ``"integrated_gradients"``: by the expression part of the token, from no expression on.
        ``"rollout"``: attention followed through the layers; unsigned, and without regard to
        the class.
    target
        The class; None: the last one.
    n_steps
        Points of ``"integrated_gradients"``.

    Returns
    -------
    Named tuple of ``values``, DataFrame genes × groups, float64; ``size``, the mean absolute
    value over the cells that express the gene (0 where none does), and ``n_expressing``, their
    number, of the same shape; and ``error``, for ``"integrated_gradients"`` the distance of
    each cell's sum from the change of its logit along the path, float32 (cells,), missing in
    cells without a group; else None.

    Raises
    ------
    ValueError
        ``"gradient_input"`` or ``"integrated_gradients"`` of a model with
        ``tokens="expressed"``, an unknown class, or not one group per cell.
    """
    choice(method, METHODS, "method")
    target = target_of(model, target)
    if method in ("gradient_input", "integrated_gradients") and model.config.n_zeros == 0:
        raise ValueError(
            f'method="{method}" starts from genes that are not expressed, and a model '
            f'with tokens="expressed" has never seen '
            'one: its answer there is arbitrary. Use method="gate_gradient", or train '
            'with network={"tokens": "background"}.'
        )
    _checks.adata.one_group_per_cell(groups, cells_of(model, adata))
    contrast = attribution.contrast_of(len(model.classes), model.classes.index(target))
    return _attributed(model, groups, adata, _function(method, contrast, n_steps), batch_size)


def _attributed(
    model: Classifier,
    groups: pd.Series,
    adata: AnnData | None,
    infer: Callable[..., tuple[Tensor, Tensor | None]],
    batch_size: int | None,
) -> Attribution:
    codes, names = coded(groups)
    total, size, n_expressing = np.zeros((3, len(names), model.config.n_positions))
    error = np.full(len(codes), np.nan, np.float32)
    grouped = np.flatnonzero(codes >= 0)
    data = token_rows(
        model, cells_of(model, adata)[grouped] if len(grouped) < len(codes) else adata
    )
    with calm_for(model):
        for cells, rows in batches(model, data, batch_size, "attribution"):
            with enough_memory(model.config, batch_size, training=True):
                effects, off = infer(model.module, cells)
            genes = (
                cells.get("genes", torch.arange(effects.shape[1]).expand(effects.shape))
                .cpu()
                .numpy()
            )
            group = np.broadcast_to(codes[grouped[rows]][:, None], genes.shape)
            effect, expressed = (
                effects.detach().cpu().numpy(),
                (cells["tokens"] > 0).cpu().numpy(),
            )
            np.add.at(total, (group, genes), effect)
            np.add.at(size, (group, genes), np.abs(effect) * expressed)
            np.add.at(n_expressing, (group, genes), expressed)
            if off is not None:
                error[grouped[rows]] = off.cpu().numpy()
    mean = total / np.bincount(codes[grouped], minlength=len(names))[:, None]
    tables = (mean, size / np.maximum(n_expressing, 1), n_expressing)
    values, sizes, n_cells = (
        pd.DataFrame(table.T[: len(model.genes)], model.genes, names) for table in tables
    )
    return Attribution(values, sizes, n_cells, error if np.isfinite(error).any() else None)


def _function(
    method: Method, contrast: Tensor, n_steps: int
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Attribution of each token, (b, n), and the error of each cell's sum where there is one."""
    if method == "rollout":
        return lambda module, cells: (attribution.rollout(module, cells), None)
    if method == "gate_gradient":
        return lambda module, cells: (attribution.gate_gradient(module, cells, contrast), None)
    if method == "gradient_input":
        return lambda module, cells: (attribution.gradient_input(module, cells, contrast), None)

    def integrated(module: Performer, cells: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        values, _, error = attribution.integrated_gradients(module, cells, contrast, n_steps)
        return values, error

    return integrated
