"""The cells a classifier is trained on: in memory or of a corpus, with their classes, weights and a linear part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import listed
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.corpus.mixin import OnCorpus, sample_for_linear
from scbert_cll.model.linear.ensemble import Combine, LinearBeside, loss_of_logits
from scbert_cll.model.training.batches import TokenSplits
from scbert_cll.model.training.proteins import protein_targets


class Labelled(OnCorpus, LinearBeside):
    """What a classifier does before it trains."""

    labels_key: str
    classes: list[str]
    _not_donors: dict[
        str, Any
    ]  # words in the column of donors, and the cells that were left out for each

    def _labelled(
        self,
        seed: int,
        combine: Combine,
        *,
        split_key: str | None,
        weight_key: str | None,
        donor_key: str | None,
        protein_key: str | None,
    ) -> tuple[TokenSplits, float]:
        """Cells in memory, and the validation loss that the network has to beat."""
        parts = self._parts(split_key, seed)
        groups, self._not_donors = None, {}
        if donor_key is not None:
            used = _checks.adata.obs_column(self.adata, self.labels_key).notna().to_numpy()
            used = used & np.isin(
                np.arange(self.adata.n_obs), np.concatenate([parts[_keys.TRAIN], parts[_keys.VAL]])
            )
            donors = _checks.people.donors(self.adata, donor_key, cells=used)
            parts = {part: rows[donors.iloc[rows].notna()] for part, rows in parts.items()}
            groups, self._not_donors = (
                donors.to_numpy(dtype=object),
                _checks.people.left_out(donors),
            )
        codes = _checks.adata.labels(self.adata, self.labels_key, self.classes, parts["train"])
        unlabelled = parts["train"][codes[parts["train"]] < 0]
        parts = {part: rows[codes[rows] >= 0] for part, rows in parts.items()}
        weights = self._weights(weight_key, codes, parts)
        parts["train"] = parts["train"][weights[parts["train"]] > 0]
        self.combine = combine
        data = self._rows(None, seed=seed, labels=codes, weights=weights)
        offset = self._fit_linear(data.csr, codes, weights, parts, groups, seed)
        start = math.inf
        if offset is not None:
            data.columns["offset"] = torch.from_numpy(offset.astype(np.float32))
            start = self._start_from(offset, codes, weights, parts[_keys.VAL])
        n_labelled = len(parts["train"])
        if protein_key is not None:
            parts["train"] = np.sort(np.concatenate([parts["train"], unlabelled]))
            data.columns["proteins"] = torch.from_numpy(
                protein_targets(self.adata, protein_key, parts["train"])
            )
        return TokenSplits(data, parts, seed=seed, n_labelled=n_labelled), start

    def _labelled_corpus(
        self, data: CorpusData, seed: int, combine: Combine, keys: Mapping[str, str | None]
    ) -> CorpusData:
        """Cells of a corpus."""
        if given := [name for name, key in keys.items() if key is not None]:
            raise ValueError(
                f"{listed(given)} name columns of cells in memory; a corpus has its "
                f"donors held out already, and "
                "CorpusData(balance=[...]) balances it."
            )
        if combine == "residual":
            raise ValueError(
                'combine="residual" needs all cells in memory; on a corpus choose "average" '
                'or "none".'
            )
        self._attached(data, seed, labels_key=self.labels_key, classes=self.classes)
        _checks.adata.every_class(
            data.labels[_keys.TRAIN], self.classes, f"{self.labels_key!r} of {data.corpus.path}"
        )
        self.combine = combine
        tokens, codes, weights, parts, donors = sample_for_linear(data, seed)
        self._fit_linear(tokens, codes, weights, parts, donors, seed)
        return data

    def _start_from(
        self, offset: np.ndarray, codes: np.ndarray, weights: np.ndarray, val: np.ndarray
    ) -> float:
        """Begin with the linear part alone; its validation loss, which the network has to beat."""
        if self.is_trained_:
            return math.inf
        self.module.zero_head()
        return loss_of_logits(offset[val], codes[val], weights[val]) if len(val) else math.inf

    def _weights(
        self, key: str | None, codes: np.ndarray, parts: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """How much each cell counts.

        A validation cell as the mean training cell of its class, 1 over all of them.
        """
        weights = (codes >= 0).astype(np.float32)
        if key is None:
            return weights
        train, val = parts[_keys.TRAIN], parts[_keys.VAL]
        weights[train] = pd.to_numeric(
            _checks.adata.obs_column(self.adata, key).iloc[train], errors="coerce"
        )
        _checks.adata.weights(weights[train], key)
        train = train[weights[train] > 0]
        n = np.bincount(codes[train], minlength=len(self.classes))
        by_class = np.bincount(codes[train], weights[train], len(self.classes)) / np.maximum(n, 1)
        weights[val] = (
            by_class[codes[val]] / max(by_class[codes[val]].mean(), 1e-12) if len(val) else 1
        )
        return weights
