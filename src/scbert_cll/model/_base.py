"""What both models are: a registered network, with its genes and its binning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import key_in
from scbert_cll._disk.formats import Json
from scbert_cll.model import _inference, _scvi, _tensors
from scbert_cll.model.corpus import start
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange import hub, saving, scbert
from scbert_cll.model.explain import attention
from scbert_cll.model.linear.regression import Combine, LinearPart
from scbert_cll.model.training.devices import device_of, known_place
from scbert_cll.model.training.options import as_seed, config_of, seeded
from scbert_cll.nn import Config, Performer


class TokenModel(_scvi.BaseModelClass):  # type: ignore[misc]
    """A Performer over binned genes, with the verbs of scvi-tools."""

    module: Performer
    linear_: LinearPart | None = None
    combine: Combine = "none"
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None
    kept_epoch_: int | None = None
    n_threads_: int | None = None
    missing_: tuple[int, str] = (-1, "")

    def __init__(
        self,
        adata: AnnData | None,
        registry: Json | None,
        network: Json,
        preset: str,
        binning: Mapping[str, Any] | None,
        rng: int | np.random.Generator | None,
        n_classes: int = 0,
    ) -> None:
        super().__init__(adata, registry)
        setup = self.registry["setup_args"]
        self.layer: str = setup["layer"]
        state = self.registry["field_registries"]["X"]["state_registry"]
        names = pd.Index([str(name) for name in state["column_names"]])
        self.genes: pd.Index = names[~names.isin(setup["exclude_genes"])]
        if binning is None:
            if adata is None:
                raise ValueError(
                    "A model without adata needs binning=, the uns record that "
                    "pp.bin_expression wrote."
                )
            _, binning = _checks.counts.tokens(adata, self.layer)
        params, edges = dict(binning["params"]), binning["edges"]
        self.binning: Json = {"params": params, "edges": edges}
        config = config_of(len(self.genes), self.binning, preset, network, n_classes)
        vectors = None
        if adata is not None and config.gene_embedding == "gene2vec":
            vectors = _gene_vectors(adata, self.genes)
        with seeded(as_seed(rng)):
            self.module = Performer(config, vectors)
        self.module.eval()
        self._model_summary_string = f"{type(self).__name__}: {config}"
        self.init_params_ = self._get_init_params(locals())

        self.not_donors_: Json = {}

    @property
    def config(self) -> Config:
        """Dimensions and choices of the network."""
        return self.module.config

    @property
    def labels(self) -> Json | None:
        """Label column and classes; None of a model that names none."""
        return None

    def to_device(self, device: str | int) -> None:
        """Move the network to a device.

        Parameters
        ----------
        device
            PyTorch's name of it: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``, or the number of
            a GPU.

        Raises
        ------
        ValueError
            There is no such device.
        """
        super().to_device(known_place(device))

    @classmethod
    def from_corpus(
        cls,
        data: CorpusData,
        *,
        preset: str = "small",
        exclude_genes: Sequence[str] = (),
        gene_vectors: pd.DataFrame | None = None,
        labels_key: str | None = None,
        rng: int | np.random.Generator | None = 0,
        **network: Any,
    ) -> Self:
        """Make a model for the cells of a corpus, with its genes and its binning.

        Parameters
        ----------
        data
            The corpus.
        preset, rng, **network
            As in the class; `gene_embedding` is ``"gene2vec"`` where there are `gene_vectors`, else
            ``"learned"``.
        exclude_genes
            Genes the network shall not see.
        gene_vectors
            Gene vectors, one row per gene of the corpus, e.g. ``sample.varm["gene2vec"]`` of cells
            that :meth:`CorpusData.sample` drew.
        labels_key
            Of a classifier: `obs` column of the corpus with the classes.

        Raises
        ------
        KeyError
            A gene or column that the corpus does not have; gene vectors that lack a gene.
        """
        return start.from_corpus(
            cls, data, preset, exclude_genes, gene_vectors, labels_key, rng, network
        )

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | Literal["auto"] = "auto",
    ) -> Self:
        """Load a model that :meth:`save` wrote.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            Cells to attach, so that methods can be called without naming them; genes may be in any
            order.
        accelerator
            ``"auto"`` takes an NVIDIA GPU where there is one; ``"cpu"``, ``"gpu"``, ``"cuda"`` or
            ``"mps"`` decide.
        device
            Number of the GPU where there are several.

        Raises
        ------
        FileNotFoundError, ValueError
            The folder is missing, incomplete, damaged, of another class or not a model of this
            package, or its weights are not finite; there is no such device.
        """
        return saving.load(cls, dir_path, adata, device_of(accelerator, device))

    save = saving.save
    save_for_hub = hub.save_for_hub
    push_to_hub = hub.push_to_hub
    to_scbert_checkpoint = scbert.to_scbert_checkpoint

    get_latent_representation = _inference.get_latent_representation
    get_gene_attention = attention.get_gene_attention
    attention_to = attention.attention_to
    get_cell_attention = attention.get_cell_attention
    get_attention_floor = attention.get_attention_floor


def _gene_vectors(adata: AnnData, genes: pd.Index) -> Tensor:
    """Rows of varm['gene2vec'] for the model's genes."""
    remedy = 'Make them with tl.gene2vec(adata), or choose gene_embedding="learned".'
    key_in(_keys.GENE2VEC, adata.varm, "adata.varm", remedy)
    rows = adata.var_names.get_indexer(genes)
    vectors = np.asarray(adata.varm[_keys.GENE2VEC], dtype=np.float32)[rows]
    return _tensors.gene_vectors(vectors, genes, f"adata.varm[{_keys.GENE2VEC!r}]")
