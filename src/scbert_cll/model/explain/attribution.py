"""What each gene does to a class's logit, summed over the cells of groups."""

from __future__ import annotations

import warnings
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice
from scbert_cll._evaluation.metrics import score
from scbert_cll.model import _inference
from scbert_cll.model._inference import batches, calm_for, cells_of, token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.explain.groups import code_of, coded, genes_of
from scbert_cll.model.training.devices import enough_memory
from scbert_cll.nn import attribution
from scbert_cll.nn.attribution import Cells
from scbert_cll.nn.performer import Performer

Method = Literal["gate_gradient", "gradient_input", "integrated_gradients", "rollout"]
METHODS: Final = get_args(Method)
_BLIND: Final = 0.6  # AUROC within donors, below which there is little to attribute


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
    contrast = attribution.contrast_of(len(model.classes), code_of(model, target))
    needs_zeros = method in ("gradient_input", "integrated_gradients")
    if needs_zeros and model.config.n_zeros == 0:
        raise ValueError(
            f'method="{method}" starts from genes that are not expressed, and a model with '
            f'tokens="{model.config.tokens}" has never seen one: its answer there is arbitrary. '
            'Use method="gate_gradient", or train with network={"tokens": "background"}.'
        )
    adata = cells_of(model, adata)
    codes, names = coded(groups, adata)
    grouped = np.flatnonzero(codes >= 0)
    data = token_rows(model, adata[grouped] if len(grouped) < len(codes) else adata)
    sums = np.zeros((3, len(names), model.config.n_positions))
    error = np.full(len(codes), np.nan, np.float32)
    with calm_for(model):
        for cells, rows in batches(model, data, batch_size, "attribution"):
            with enough_memory(model.config, batch_size, training=True):
                effects, off = _effects(method, model.module, cells, contrast, n_steps)
            effect = effects.detach().cpu().numpy()
            expressed = (cells["tokens"] > 0).cpu().numpy()
            genes = genes_of(cells)
            group = np.broadcast_to(codes[grouped[rows]][:, None], genes.shape)
            parts = (effect, np.abs(effect) * expressed, expressed)
            for total, part in zip(sums, parts, strict=True):
                np.add.at(total, (group, genes), part)
            if off is not None:
                error[grouped[rows]] = off.cpu().numpy()
    n_cells = np.bincount(codes[grouped], minlength=len(names))[:, None]
    total, size, n_expressing = sums[..., : len(model.genes)]
    means = (total / n_cells, size / np.maximum(n_expressing, 1), n_expressing)
    values, sizes, expressing = (pd.DataFrame(m.T, model.genes, names) for m in means)
    errors = error if np.isfinite(error).any() else None
    return Attribution(values, sizes, expressing, errors)


def _effects(
    method: Method, network: Performer, cells: Cells, contrast: Tensor, n_steps: int
) -> tuple[Tensor, Tensor | None]:
    """Attribution of each token (b, n), and the error of each cell's sum where there is one."""
    if method == "gate_gradient":
        return attribution.gate_gradient(network, cells, contrast), None
    if method == "gradient_input":
        return attribution.gradient_input(network, cells, contrast), None
    if method == "rollout":
        return attribution.rollout(network, cells), None
    values, _, error = attribution.integrated_gradients(network, cells, contrast, n_steps)
    return values, error


def held_out_auroc(
    adata: AnnData,
    model: Classifier,
    split_key: str,
    donors: pd.Series | None,
    target: str | None,
    batch_size: int | None,
    stacklevel: int = 3,
) -> float:
    """AUROC of the network on cells it was not trained on, within donors where they are known.

    It says what an attribution is worth. Missing if it cannot be told.
    """
    if split_key not in adata.obs or model.labels_key not in adata.obs:
        return float("nan")
    parts = _checks.adata.split(adata, split_key, need=()).to_numpy()
    column = _checks.adata.obs_column(adata, model.labels_key)
    labels = _checks.people.class_names(column)
    is_known = labels.isin(model.classes).to_numpy()
    is_known = is_known if donors is None else is_known & donors.notna().to_numpy()
    of_parts = [is_known & (parts == part) for part in (_keys.TEST, _keys.VAL)]
    held_out = [cells for cells in of_parts if cells.any()]
    if not held_out:
        return float("nan")
    rows, target = held_out[0], target or model.classes[-1]
    positive = (labels[rows] == target).to_numpy().astype(np.int64)
    predicted = _inference.predict_parts(model, adata[rows], batch_size=batch_size)
    proba = predicted.network[target]
    who = None if donors is None else donors[rows].to_numpy()
    name = "auroc" if who is None else "auroc_within"
    both = np.column_stack([1 - proba, proba])
    auroc = float(score(name, positive, both, ["others", "target"], donors=who).value)
    if auroc < _BLIND:
        warnings.warn(
            f"On the {int(rows.sum())} cells held out the network's "
            f"AUROC{' within donors' * (who is not None)} is {auroc:.2f}: it has learned little of "
            f"{model.labels_key!r} that holds for other cells, and there is little to attribute.",
            stacklevel=stacklevel,
        )
    return auroc
