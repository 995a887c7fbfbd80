"""tl.pretrain: learn from RNA alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.model import ScBERT
from scbert_cll.tl import _write


def pretrain(
    adata: AnnData,
    *,
    layer: str = _keys.BINNED,
    split_key: str | None = _keys.SPLIT,
    exclude_genes: Sequence[str] = (),
    preset: str = "small",
    gene_embedding: str = "gene2vec",
    max_epochs: int = 20,
    batch_size: int | Literal["auto"] = 32,
    early_stopping: bool = True,
    accelerator: str = "auto",
    rng: int | np.random.Generator | None = 0,
    network: dict[str, Any] | None = None,
    **train: Any,
) -> ScBERT:
    """Pretrain a Performer: it learns to guess the expression bin of hidden genes from the rest of the cell.

    Needs no labels, so all RNA at hand can be used. Where the cells are split, only training cells are learned from and
    validation cells decide when to stop; test cells are embedded but never trained on.

    Parameters
    ----------
    adata
        Cells × genes with the binned layer; changed in place.
    layer
        Layer that :func:`~scbert_cll.pp.bin_expression` wrote.
    split_key
        `obs` column of :func:`~scbert_cll.pp.split_donors`; where it does not exist, or is None, a random tenth of the cells
        validates.
    exclude_genes
        Genes the network shall not see, e.g. ``["ITGA4"]``.
    preset
        ``"small"`` trains on a laptop, ``"scbert"`` is the published network; see :class:`~scbert_cll.model.ScBERT`.
    gene_embedding
        What tells genes apart: ``"gene2vec"`` (`adata.varm`, see :func:`~scbert_cll.tl.gene2vec`), ``"learned"``,
        ``"sinusoidal"`` or ``"none"``.
    max_epochs, batch_size, early_stopping
        Passes over the training cells, cells per step (``"auto"``: as many as fit), and whether to stop when the validation
        loss no longer falls.
    accelerator
        ``"auto"`` takes a GPU where there is one.
    rng
        Seed of weights, batches and masks.
    network
        Further choices of :class:`scbert_cll.nn.Config`, e.g. ``{"n_hidden": 64, "n_layers": 2}``, or ``{"tokens": "background"}``
        to let a weighted sample of the genes that are not expressed attend, too.
    **train
        Passed to :meth:`ScBERT.train <scbert_cll.model.ScBERT.train>` and Lightning's trainer, e.g. ``precision="bf16-mixed"``,
        ``recompute=True`` (less memory), ``devices=2``.

    Returns
    -------
    The trained :class:`~scbert_cll.model.ScBERT`. In `adata`:

    ``adata.obsm['X_scbert']`` : float32 array (cells, n_hidden)
        Mean of a cell's refined tokens.
    ``adata.uns['scbert']`` : dict
        Parameters, versions, and masked accuracy beside that of the commonest bin.

    Raises
    ------
    KeyError
        The layer, or with ``gene_embedding="gene2vec"`` the gene vectors, are missing.
    ValueError
        The layer holds no tokens of :func:`~scbert_cll.pp.bin_expression`, or a cell has no token.

    References
    ----------
    Yang et al. 2022, doi:10.1038/s42256-022-00534-z.
    """
    _checks.target(_checks.anndata(adata), copy=False)
    split_key = split_key if split_key in adata.obs else None
    with _write.untouched_on_error(adata):
        ScBERT.setup_anndata(adata, layer=layer, exclude_genes=exclude_genes)
        model = ScBERT(adata, preset=preset, gene_embedding=gene_embedding, rng=rng, **(network or {}))
        model.train(
            max_epochs,
            split_key=split_key,
            batch_size=batch_size,
            early_stopping=early_stopping,
            accelerator=accelerator,
            rng=rng,
            **train,
        )
        latent = model.get_latent_representation()
    adata.obsm[_keys.X_SCBERT] = latent
    adata.uns[_keys.SCBERT] = _write.record(model, split_key=split_key)
    return model
