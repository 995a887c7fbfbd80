"""Models on a corpus: started from it, trained on it, a linear part from a sample of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import listed, refuse_given, unique
from scbert_cll._disk.formats import Json
from scbert_cll._gene_names.resolver import known_in_data, places_of
from scbert_cll.model import _scvi, _tensors
from scbert_cll.model._inference import hidden_genes, refuse_other_tokens
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model.corpus.data import CorpusData, without_cells
from scbert_cll.model.linear.regression import Examples, fit_linear
from scbert_cll.model.training.options import Rng, as_seed, seeded
from scbert_cll.nn import Performer

# cells that the linear part of a classifier is fitted and chosen on
_LINEAR: Final = {_keys.TRAIN: 20_000, _keys.VAL: 5_000}


def from_corpus[M: Network](
    cls: type[M],
    data: CorpusData,
    preset: str,
    exclude_genes: Sequence[str],
    gene_vectors: pd.DataFrame | None,
    labels_key: str | None,
    rng: Rng,
    network: Json,
) -> M:
    """A model for the cells of a corpus, with its genes and its binning."""
    excluded = known_in_data(exclude_genes, data.genes, "the corpus")
    embedding = "learned" if gene_vectors is None else "gene2vec"
    network = {"gene_embedding": embedding, **network, "preset": preset, "rng": rng}
    if network["gene_embedding"] == "gene2vec" and gene_vectors is None:
        raise KeyError(
            'gene_embedding="gene2vec" needs gene_vectors= where cells are read from a corpus: '
            "sample = data.sample(20_000), tl.gene2vec(sample), "
            'gene_vectors=sample.varm["gene2vec"]; or choose gene_embedding="learned".'
        )
    setup: Json = {"layer": _keys.BINNED, "exclude_genes": excluded}
    labels: Json = {}
    if labels_key is not None:
        setup["labels_key"] = labels_key
        labels = {"labels_key": labels_key, "classes": data.classes(labels_key)}
    network["binning"] = data.binning
    model = _scvi.detached(cls, data.genes, setup, labels, **network)
    if gene_vectors is not None:
        vectors = _vectors_of(gene_vectors, model.genes)
        with seeded(as_seed(rng)):
            model.module = Performer(model.config, vectors).eval()
    return model


def refuse_other_corpus(model: Network, data: CorpusData) -> None:
    """Refuse a corpus whose tokens mean something else, or that lacks most of the model's genes."""
    hidden = pd.Index(hidden_genes(model)).difference(model.genes)
    data.count(model.genes.append(hidden), model.binning["params"])
    genes, where = without_cells(data.genes), f"The corpus {data.corpus.path}"
    refuse_other_tokens(model, data.binning, genes, where, is_corpus=True)


def attached(model: Network, data: CorpusData, seed: int, **labels: Any) -> CorpusData:
    """The corpus, ready for this model."""
    if not isinstance(data, CorpusData):
        raise TypeError(
            f"datamodule must be a CorpusData, found {type(data).__name__}: "
            f'CorpusData("corpus.zarr").'
        )
    refuse_other_corpus(model, data)
    data.attach(model.genes, model.config, seed=seed, **labels)
    return data


def labelled(
    model: Classifier, data: CorpusData, seed: int, in_memory: dict[str, str | None]
) -> CorpusData:
    """The corpus with its labels, and the model's linear part fitted to a sample of its cells."""
    refuse_given(
        {name: key is not None for name, key in in_memory.items()},
        "name columns of cells in memory; a corpus has its donors held out already, and "
        "CorpusData(balance=[...]) balances it.",
    )
    if model.combine == "residual":
        raise ValueError(
            'combine="residual" needs all cells in memory; on a corpus choose "average" or "none".'
        )
    attached(model, data, seed, labels_key=model.labels_key, classes=model.classes)
    where = f"{model.labels_key!r} of {data.corpus.path}"
    _checks.adata.every_class(data.labels[_keys.TRAIN], model.classes, where)
    model.linear_ = fit_linear(_sample_for_linear(data, seed))
    return data


def _sample_for_linear(data: CorpusData, seed: int) -> Examples:
    """Some labelled cells in memory, for an exact solver."""
    blocks, parts, n = [], {}, 0
    for part, most in _LINEAR.items():
        rows = np.flatnonzero(data.labels[part] >= 0)
        if len(rows) > most:
            rng = np.random.default_rng([seed, most])
            rows = np.sort(rng.choice(rows, most, replace=False))
        parts[part] = n + np.arange(len(rows))
        n += len(rows)
        if len(rows):
            is_balanced = bool(data.balance) and part == _keys.TRAIN
            weights = data.weights(part)[rows] if is_balanced else np.ones(len(rows))
            donors = data.obs(part, _keys.DONOR).to_numpy()[rows]
            columns = data.labels[part][rows], weights / weights.mean(), donors
            blocks.append((data.tokens(part, rows), *columns))
    tokens, *values = zip(*blocks, strict=True)
    codes, weights, donors = (np.concatenate(value) for value in values)
    csr, donors = sparse.vstack(tokens, format="csr"), donors.astype(str)
    train, val = parts[_keys.TRAIN], parts[_keys.VAL]
    return Examples(csr, codes, weights, train, val, donors, seed)


def _vectors_of(vectors: pd.DataFrame, genes: pd.Index) -> torch.Tensor:
    """Rows of the model's genes."""
    unique(vectors.index, "the genes of gene_vectors", "keep one row per gene")
    places = places_of(genes, vectors.index)
    if missing := list(genes[places < 0]):
        raise KeyError(
            f"gene_vectors lacks {len(missing)} of {len(genes)} genes of the model: "
            f"{listed(missing)}."
        )
    values = vectors.iloc[places].to_numpy(np.float32, copy=True)
    return _tensors.gene_vectors(values, genes, "gene_vectors", is_table=True)
