"""What tl.predict_corpus asks of a model about the cells of a corpus, and what it gets of each piece of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _names
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.predictions import PART, Results, categories, pieces
from scbert_cll._disk.formats import digest
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model._tensors import tensors_digest
from scbert_cll.model.corpus import checks as reading_checks
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.corpus.start import refuse_other_corpus
from scbert_cll.model.explain.attention import attention_sums
from scbert_cll.model.linear.ensemble import described
from scbert_cll.model.training.batches import take_columns
from scbert_cll.tl import _write

_FLOOR_CELLS: Final = 256  # as ScBERT.get_attention_floor looks at


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
        return _checks.people.class_order(
            pd.concat([self.data.obs(part, self.groupby) for part in filled])
        )

    def codes(self, part: str, start: int, stop: int) -> np.ndarray:
        """Which group each of some cells is of; -1 for none.

        Of a column that the corpus has as numbers.
        """
        values = self.data.obs(part, str(self.groupby)).iloc[start:stop]
        return np.asarray(
            pd.Categorical(_checks.people.class_names(values), categories=self.groups).codes
        )

    def check(self) -> None:
        """Refuse what does not fit before anything is written.

        Some cells are predicted to that end.
        """
        corpus, model = self.data.corpus, self.model
        reading_checks.parts_with_cells(self.parts, {part: corpus.n_cells(part) for part in PARTS})
        reading_checks.free_columns(
            list(corpus.record["obs_columns"]), [PART, _keys.PRED, _keys.SCORE]
        )
        reading_checks.groups_of_corpus(
            self.groupby, [*categories(corpus, self.parts), *self.numbers]
        )
        reading_checks.not_too_many_groups(self.groupby, len(self.groups))
        refuse_other_corpus(model, self.data)
        part, start, stop, _ = next(pieces(corpus, self.parts, 0, 64))
        known, cells = self.cells(part, np.arange(start, stop))
        if len(known):
            self.predicted(cells)

    @property
    def numbers(self) -> list[str]:
        """Columns that the corpus has as numbers."""
        return [
            name for name, kinds in self.data.corpus.record["obs_columns"].items() if kinds is None
        ]

    def results(self) -> Results:
        """What there will be of every cell."""
        width = self.model.config.n_hidden
        if isinstance(self.model, ScBERT):
            return Results(width)
        names = _write.called(self.model, self.unassigned_below)
        tables = [_keys.PROBA, *([] if self.model.linear_ is None else [_keys.LINEAR_PROBA])]
        return Results(width, self.model.classes, names, tables)

    def plan(self) -> dict[str, Any]:
        """All that decides what is written."""
        model, data = self.model, self.data
        edges = model.binning["edges"]
        cut = edges.to_csv() if isinstance(edges, pd.DataFrame) else list(edges)
        known: dict[str, Any] = {
            "network": asdict(model.config),
            "weights": tensors_digest(model.module.state_dict()),
        }
        known |= {"genes": list(model.genes), "edges": cut, "params": model.binning["params"]}
        known |= {
            "linear": None if model.linear_ is None else model.linear_.arrays(),
            "joined": described(model),
            "labels": model.labels,
        }
        return {
            "corpus": data.corpus.digest[:12],
            "model": digest(known)[:12],
            "groupby": self.groupby,
            "parts": self.parts,
            "unassigned_below": self.unassigned_below,
            "cells at a time": data.chunk_size * data.preload_nchunks,
        }

    def cells(self, part: str, cells: np.ndarray) -> tuple[np.ndarray, AnnData]:
        """Of some cells those that have a token among the model's genes: which these are, and the cells."""
        adata = self.data.cells(part, cells)
        if self.model.config.tokens == "all":
            return np.arange(len(cells)), adata
        csr: Any = adata.layers[_keys.BINNED]
        known = np.flatnonzero(
            np.diff(take_columns(csr, adata.var_names.get_indexer(self.model.genes)).indptr)
        )
        return known, adata if len(known) == len(cells) else adata[known].copy()

    def predicted(self, cells: AnnData) -> dict[str, np.ndarray]:
        """What is written of these cells, by path."""
        if isinstance(self.model, ScBERT):
            latent = self.model.get_latent_representation(cells, batch_size=self.batch_size)
            return _arrays({"obsm": {_keys.X_SCBERT: latent}})
        found = self.model.predict_parts(cells, batch_size=self.batch_size)
        return _arrays(
            _write.predictions(
                self.model, found, _write.Slots(), unassigned_below=self.unassigned_below
            )
        )

    def attention(self, cells: AnnData, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Attention summed over the cells of each group, and how many these are."""
        sums = attention_sums(self.model, codes, len(self.groups), cells, self.batch_size)
        return {
            "attention": sums,
            "n_cells": np.bincount(codes[codes >= 0], minlength=len(self.groups)),
        }

    def floor(self) -> np.ndarray:
        """Floor of the attention in some cells, evenly spaced over all."""
        n = self.data.corpus.n_cells(*self.parts)
        rows = np.unique(np.linspace(0, n - 1, _FLOOR_CELLS).astype(int))
        found, seen = np.zeros(self.model.config.n_layers), 0
        for part, _, stop, row in pieces(self.data.corpus, self.parts, 0, n):
            known, cells = self.cells(part, rows[(rows >= row) & (rows < row + stop)] - row)
            if len(known):
                found += len(known) * self.model.get_attention_floor(cells)
                seen += len(known)
        return (found / max(seen, 1)).astype(np.float32)


def _arrays(slots: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Results as they lie in the store."""
    found: dict[str, np.ndarray] = {}
    for name, value in [*slots.get("obs", {}).items(), *slots["obsm"].items()]:
        path = f"{'obs' if name in slots.get('obs', {}) else 'obsm'}/{name}"
        if isinstance(value, pd.DataFrame):
            found |= {f"{path}/{_names.key(column)}": value[column].to_numpy() for column in value}
        elif isinstance(value, pd.Categorical):
            found[f"{path}/codes"] = value.codes
        else:
            found[path] = np.asarray(value)
    return found
