"""tl.pretrain: learn from RNA alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import refuse_given
from scbert_cll.model import ScBERT
from scbert_cll.model.corpus.data import ON_DISK, ONLY_OF_A_CORPUS, OnDisk, opened
from scbert_cll.model.training import fit as training
from scbert_cll.model.training.options import BatchSize, Pretraining, check_network
from scbert_cll.tl import _write


@_docs.shared
def pretrain(
    adata: AnnData | OnDisk,
    *,
    layer: str = _keys.BINNED,
    split_key: str | None = _keys.SPLIT,
    exclude_genes: Sequence[str] = (),
    preset: str = "small",
    gene_embedding: str | None = None,
    gene_vectors: pd.DataFrame | None = None,
    max_epochs: int = Pretraining.max_epochs,
    batch_size: BatchSize = Pretraining.batch_size,
    early_stopping: bool = Pretraining.early_stopping,
    accelerator: str = "auto",
    rng: int | np.random.Generator | None = 0,
    balance: Sequence[str] = (),
    num_workers: int = 0,
    network: dict[str, Any] | None = None,
    key_added: str = _keys.SCBERT,
    **train: Any,
) -> ScBERT:
    """Pretrain a Performer: it learns to guess the expression bins of hidden genes.

    Needs no labels, so all RNA at hand can be used. Where the cells are split, only training cells
    are learned from and validation cells decide when to stop; test cells are embedded but never
    trained on.

    Cells that do not fit into memory are read from a corpus on disk
    (:func:`~scbert_cll.pp.build_corpus`). Nothing but the model then comes out;
    :func:`~scbert_cll.tl.predict_corpus` embeds them.

    Parameters
    ----------
    adata
        Cells × genes with the binned layer; changed in place. Or a corpus: its path, or a
        :class:`~scbert_cll.model.CorpusData`; it is only read.
    layer
        Layer that :func:`~scbert_cll.pp.bin_expression` wrote. Not for a corpus, which was binned
        when it was built.
    split_key
        `obs` column of :func:`~scbert_cll.pp.split_donors`; where it does not exist, or is None, a
        random tenth of the cells validates. Not for a corpus, whose donors were split when it was
        built.
    exclude_genes
        Genes the network shall not see, e.g. ``["ITGA4"]``.
    preset
        ``"small"`` trains on a laptop, ``"scbert"`` is the published network; see
        :class:`~scbert_cll.model.ScBERT`.
    gene_embedding
        What tells genes apart: ``"gene2vec"`` (`adata.varm`, see :func:`~scbert_cll.tl.gene2vec`),
        ``"learned"``, ``"sinusoidal"`` or ``"none"``. None: gene2vec; of a corpus learned, or
        gene2vec with `gene_vectors`.
    gene_vectors
        For a corpus: one row per gene, e.g. ``sample.varm["gene2vec"]`` of cells that
        ``CorpusData.sample`` drew.
    max_epochs, batch_size, early_stopping
        Passes over the training cells, cells per step (``"auto"``: as many as fit), and whether to
        stop when the validation loss no longer falls.
    accelerator
        ``"auto"`` takes a GPU where there is one.
    rng
        Seed of weights, batches and masks.
    balance, num_workers
        For the path of a corpus: `obs` columns whose combinations are drawn equally often, and
        processes that read ahead; see :class:`~scbert_cll.model.CorpusData`.
    network
        Further choices of :class:`scbert_cll.nn.Config`, e.g. ``{"n_hidden": 64, "n_layers": 2}``,
        or ``{"tokens": "background"}`` to let a weighted sample of the genes that are not expressed
        attend, too.
    key_added
        In place of ``scbert`` in the names of the results, ``X_scbert`` and ``scbert_pretrain``, so
        that those of two models stand side by side. Not for a corpus.
    **train
        Passed to :meth:`ScBERT.train <scbert_cll.model.ScBERT.train>` and Lightning's trainer, e.g.
        ``precision="bf16-mixed"``, ``recompute=True`` (less memory), ``devices=2``. With
        ``checkpoint_dir="run"`` a training that was interrupted goes on when it is called the same
        way; ``checkpoint_minutes`` and ``checkpoint_steps`` say how often one is written.

    Returns
    -------
    The trained :class:`~scbert_cll.model.ScBERT`. In `adata`, if that is an AnnData:

    ``adata.obsm['X_scbert']`` : float32 array (cells, n_hidden)
        Mean of a cell's refined tokens.
    ``adata.uns['scbert_pretrain']`` : dict
        Parameters, versions, and masked accuracy beside that of the commonest bin; ``n_threads``:
        PyTorch's threads, which change the last digits of weights.

    Raises
    ------
    KeyError
        The layer, or with ``gene_embedding="gene2vec"`` the gene vectors, are missing.
    ValueError
        The layer holds no tokens of :func:`~scbert_cll.pp.bin_expression`, or a cell has no token.
        The corpus is damaged, or an argument is not for a corpus, or only for one. There is no such
        device, or it cannot compute with this `precision`. Gene vectors or numbers of the training
        are not finite; or the training diverged: `adata` is as it was, and ``error.model`` has the
        weights of the best epoch before, if there was one.
    TypeError
        No argument of this name, in `train` or `network`; the nearest one is named.
    FileNotFoundError
        There is no such corpus.
    %(no_annbatch)s

    Examples
    --------
    .. code-block:: python

        model = sc_cll.tl.pretrain("corpus.zarr", checkpoint_dir="run", devices=2, strategy="ddp")

    References
    ----------
    Yang et al. 2022, doi:10.1038/s42256-022-00534-z.
    """
    params = _record.params(given := locals())
    options = Pretraining.of("tl.pretrain", given, train | {"accelerator": accelerator})
    check_network(network or {})
    choices: dict[str, Any] = {"preset": preset, "rng": rng, **(network or {})}
    if gene_embedding is not None:
        choices["gene_embedding"] = gene_embedding
    if isinstance(adata, ON_DISK):
        _write.usual(layer=layer, split_key=split_key, key_added=key_added)
        data = opened(adata, balance=balance, num_workers=num_workers)
        model = ScBERT.from_corpus(
            data, exclude_genes=exclude_genes, gene_vectors=gene_vectors, **choices
        )
        training.pretrain(model, options, data)
        return model
    chosen = {"gene_vectors": gene_vectors is not None, "balance": bool(balance)}
    chosen["num_workers"] = num_workers != 0
    remedy = 'Gene vectors are read from adata.varm["gene2vec"].'
    refuse_given(chosen, f"{ONLY_OF_A_CORPUS} {remedy}")
    _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    slots = _write.Slots.of(key_added)
    slots.check(layer)
    split_key = split_key if split_key in adata.obs else None
    with _record.untouched_on_error(adata):
        ScBERT.setup_anndata(adata, layer=layer, exclude_genes=exclude_genes)
        model = ScBERT(adata, **choices)
        training.pretrain(model, replace(options, split_key=split_key), None)
        latent = model.get_latent_representation()
        params |= {"split_key": split_key}
        record = _write.record(model, params) | {"n_threads": model.n_threads_}
        _record.write(adata, obsm={slots.latent: latent}, uns={slots.pretrain: record})
    return model
