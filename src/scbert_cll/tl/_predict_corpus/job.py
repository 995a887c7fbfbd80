"""What tl.predict_corpus asks of a model, and what it gets for each piece of a corpus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys, _names
from scbert_cll._checks import people
from scbert_cll._checks.words import listed
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.predictions import PART, Results, categories, pieces
from scbert_cll._disk.formats import digest
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model._inference import described
from scbert_cll.model._tensors import tensors_digest
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.corpus.start import refuse_other_corpus
from scbert_cll.model.explain.attention import Attention
from scbert_cll.model.training.batches import take_columns
from scbert_cll.tl import _write

_FLOOR_CELLS: Final = 256  # as ScBERT.get_attention_floor looks at
_MOST_GROUPS: Final = 1000  # whose attention is in memory, for every gene


@dataclass(frozen=True)
class Job:
    """Cells, a model, and what is asked of it."""

    data: CorpusData
    model: ScBERT | ScBERTClassifier
    groupby: str | None
    parts: list[str]
    unassigned_below: float | None
    batch_size: int | None

    @cached_property
    def groups(self) -> list[str]:
        """Names of the groups whose attention is averaged."""
        if self.groupby is None:
            return []
        stored = categories(self.data.corpus, self.parts)
        if self.groupby in stored:
            return stored[self.groupby]
        filled = [part for part in self.parts if self.data.corpus.n_cells(part)]
        columns = [self.data.obs(part, self.groupby) for part in filled]
        return people.class_order(pd.concat(columns))

    def check(self) -> None:
        """Refuse what does not fit before anything is written.

        Some cells are predicted to that end.
        """
        corpus = self.data.corpus
        n_cells = {part: corpus.n_cells(part) for part in PARTS}
        if not 0 < len(self.parts) == len(set(self.parts) & set(PARTS)):
            raise ValueError(
                f"parts must name some of {listed(PARTS)}, each once; found {listed(self.parts)}."
            )
        if not any(n_cells[part] for part in self.parts):
            numbers = listed(f"{part}: {n}" for part, n in n_cells.items())
            names = listed(self.parts)
            raise ValueError(f"The corpus has no cell in {names}; it has {numbers}.")
        replaced = [PART, _keys.PRED, _keys.SCORE]
        if taken := [name for name in corpus.obs_columns if name in replaced]:
            raise ValueError(
                f"The corpus has obs columns {listed(taken)}, which predictions would replace; "
                f"build it with other names."
            )
        columns = dict.fromkeys([*categories(corpus, self.parts), *corpus.obs_columns])
        if self.groupby is not None and self.groupby not in columns:
            raise KeyError(
                f"groupby={self.groupby!r} is no obs column of the corpus, which has "
                f"{listed(columns, 12)}. Name it in obs_columns= of pp.build_corpus."
            )
        if len(self.groups) > _MOST_GROUPS:
            raise ValueError(
                f"groupby={self.groupby!r} has {len(self.groups):,} different values, and groups "
                f"are at most {_MOST_GROUPS:,}. Name another column, or cut it into groups "
                f"(pandas.cut) before the corpus is built."
            )
        refuse_other_corpus(self.model, self.data)
        part, start, stop, _ = next(pieces(corpus, self.parts, 0, 64))
        rows, cells = self.cells(part, np.arange(start, stop))
        if len(rows):
            self.predicted(cells)

    @cached_property
    def results(self) -> Results:
        """What there will be of every cell."""
        width = self.model.config.n_hidden
        if isinstance(self.model, ScBERT):
            return Results(width)
        names = _write.called(self.model, self.unassigned_below)
        linear = [] if self.model.linear_ is None else [_keys.LINEAR_PROBA]
        tables = [_keys.PROBA, *linear]
        return Results(width, self.model.classes, names, tables)

    def plan(self) -> dict[str, object]:
        """All that decides what is written."""
        model, data = self.model, self.data
        edges = model.binning["edges"]
        described_model = {
            "network": asdict(model.config),
            "weights": tensors_digest(model.module.state_dict()),
            "genes": list(model.genes),
            "edges": edges.to_csv() if isinstance(edges, pd.DataFrame) else list(edges),
            "params": model.binning["params"],
            "linear": None if model.linear_ is None else model.linear_.arrays(),
            "joined": described(model),
            "labels": model.labels,
        }
        return {
            "corpus": data.corpus.digest[:12],
            "model": digest(described_model)[:12],
            "groupby": self.groupby,
            "parts": self.parts,
            "unassigned_below": self.unassigned_below,
            "cells at a time": data.chunk_size * data.preload_nchunks,
        }

    def cells(self, part: str, rows: np.ndarray) -> tuple[np.ndarray, AnnData]:
        """Cells with a token among the model's genes, after their places in `rows`."""
        adata = self.data.cells(part, rows)
        if self.model.config.every_gene:
            return np.arange(len(rows)), adata
        csr: Any = adata.layers[_keys.BINNED]
        columns = adata.var_names.get_indexer(self.model.genes)
        places = np.flatnonzero(np.diff(take_columns(csr, columns).indptr))
        return places, adata if len(places) == len(rows) else adata[places].copy()

    def predicted(self, cells: AnnData) -> dict[str, np.ndarray]:
        """What is written of these cells, by path."""
        n, below = self.batch_size, self.unassigned_below
        if isinstance(self.model, ScBERT):
            latent = self.model.get_latent_representation(cells, batch_size=n)
            return {f"obsm/{_keys.X_SCBERT}": latent}
        parts = self.model.predict_parts(cells, batch_size=n)
        slots = _write.predictions(self.model, parts, _write.Slots.of(), below)
        arrays: dict[str, np.ndarray] = {}
        paths = [(slot, key) for slot in slots for key in slots[slot]]
        for slot, key in paths:
            path, value = f"{slot}/{key}", slots[slot][key]
            if isinstance(value, pd.DataFrame):
                for name in value:
                    arrays[f"{path}/{_names.key(name)}"] = value[name].to_numpy()
            elif isinstance(value, pd.Categorical):
                arrays[f"{path}/codes"] = value.codes
            else:
                arrays[path] = np.asarray(value)
        return arrays

    def attention(self, cells: AnnData, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Attention summed over the cells of each group, and how many these are."""
        n = len(self.groups)
        sums = Attention(self.model, cells, self.batch_size).sums(codes, n)
        n_cells = np.bincount(codes[codes >= 0], minlength=n)
        return {"attention": sums, "n_cells": n_cells}

    def floor(self) -> np.ndarray:
        """Floor of the attention in some cells, evenly spaced over all."""
        n = self.data.corpus.n_cells(*self.parts)
        rows = np.unique(np.linspace(0, n - 1, _FLOOR_CELLS).astype(int))
        total, n_seen = np.zeros(self.model.config.n_layers), 0
        for part, _, stop, row in pieces(self.data.corpus, self.parts, 0, n):
            is_mine = (rows >= row) & (rows < row + stop)
            places, cells = self.cells(part, rows[is_mine] - row)
            if len(places):
                total += len(places) * self.model.get_attention_floor(cells)
                n_seen += len(places)
        return (total / max(n_seen, 1)).astype(np.float32)
