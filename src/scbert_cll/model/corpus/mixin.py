"""Models on a corpus: started from it, and a classifier's linear part from a sample of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import listed
from scbert_cll.model import _finite, _scvi
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.training.fit import Training, as_seed, seeded
from scbert_cll.nn import Performer

_LINEAR: Final = {
    _keys.TRAIN: 20_000,
    _keys.VAL: 5_000,
}  # cells that the linear part of a classifier is fitted and chosen on


class OnCorpus(Training):
    """What both models do with a corpus."""

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
        genes = AnnData(var=pd.DataFrame(index=data.genes))
        _checks.genes.known_genes(exclude_genes, genes)
        network = {"gene_embedding": "learned" if gene_vectors is None else "gene2vec"} | network
        if network["gene_embedding"] == "gene2vec" and gene_vectors is None:
            raise KeyError(
                'gene_embedding="gene2vec" needs gene_vectors= where cells are read from a '
                "corpus: sample = data.sample(20_000), "
                'tl.gene2vec(sample), gene_vectors=sample.varm["gene2vec"]; or choose '
                'gene_embedding="learned".'
            )
        setup = {"layer": _keys.BINNED, "exclude_genes": list(exclude_genes)}
        if labels_key is not None:
            setup |= {"labels_key": labels_key}
            network |= {"labels_key": labels_key, "classes": data.classes(labels_key)}
        registry = _scvi.detached_registry(cls.__name__, list(data.genes), setup)
        model = cls(registry=registry, binning=data.binning, preset=preset, rng=rng, **network)
        if gene_vectors is not None:
            vectors = _vectors_of(gene_vectors, model.genes)
            with seeded(as_seed(rng)):
                model.module = Performer(model.config, vectors).eval()
        return model

    def _fits_corpus(self, data: CorpusData) -> None:
        """Refuse a corpus whose tokens mean something else, or that lacks most of the model's genes."""
        hidden = pd.Index(self._hidden_genes)
        data.count(self.genes.append(hidden.difference(self.genes)), self.binning["params"])
        genes = AnnData(var=pd.DataFrame(index=data.genes))
        self._fits(data.binning, genes, f"The corpus {data.corpus.path}", is_corpus=True)

    def _attached(self, data: CorpusData, seed: int, **labels: Any) -> CorpusData:
        """Get the corpus ready for this model."""
        if not isinstance(data, CorpusData):
            raise TypeError(
                f"datamodule must be a CorpusData, found {type(data).__name__}: "
                f'CorpusData("corpus.zarr").'
            )
        self._fits_corpus(data)
        data.attach(self.genes, self.config, seed=seed, **labels)
        return data


def sample_for_linear(
    data: CorpusData, seed: int
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Tokens, classes, weights, parts and donors of some labelled cells, for an exact solver that wants them in memory."""
    found, parts, n = [], {}, 0
    for part, most in _LINEAR.items():
        rows = np.flatnonzero(data.labels[part] >= 0)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng([seed, most]).choice(rows, most, replace=False))
        parts[part] = n + np.arange(len(rows))
        n += len(rows)
        if len(rows):
            weights = (
                data.weights(part)[rows]
                if data.balance and part == _keys.TRAIN
                else np.ones(len(rows))
            )
            donors = data.obs(part, _keys.DONOR).to_numpy()[rows]
            found.append(
                (data.tokens(part, rows), data.labels[part][rows], weights / weights.mean(), donors)
            )
    tokens, *columns = zip(*found, strict=True)
    codes, weights, donors = (np.concatenate(column) for column in columns)
    return sparse.vstack(tokens, format="csr"), codes, weights, parts, donors.astype(str)


def _vectors_of(vectors: pd.DataFrame, genes: pd.Index) -> torch.Tensor:
    """Rows of the model's genes."""
    if missing := list(genes[~genes.isin(vectors.index)]):
        raise KeyError(
            f"gene_vectors lacks {len(missing)} of {len(genes)} genes of the model: "
            f"{listed(missing)}."
        )
    values = vectors.loc[genes].to_numpy(np.float32)
    return torch.from_numpy(_finite.gene_vectors(values, genes, "gene_vectors", is_table=True))
