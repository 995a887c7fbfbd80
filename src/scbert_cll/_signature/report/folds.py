"""The worth of genes in donors that they were not found in: alone, and beside all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.linear_filter import ridge


@dataclass(frozen=True)
class Fold:
    """Cells of the extreme classes: some to learn from, those of other donors to tell apart."""

    log: sparse.csr_matrix  # (cells, tested genes)
    positive: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, data: PseudobulkData, log: sparse.csr_matrix, left_out: list[str]) -> Fold:
        """Hold out some donors; `log` has the rows of `data.extremes`."""
        is_test = np.isin(data.donors[data.extremes], left_out)
        positive = data.positive[data.extremes]
        return cls(log, positive, np.flatnonzero(~is_test), np.flatnonzero(is_test))

    @cached_property
    def weights(self) -> tuple[np.ndarray, float]:
        """Weight of each gene's log-expression in a regression of all genes, and the intercept."""
        scaler = StandardScaler(with_mean=False).fit(self.log[self.train])
        model = ridge(scaler.transform(self.log[self.train]), self.positive[self.train])
        return model.coef_[0] / scaler.scale_, float(model.intercept_[0])

    @cached_property
    def by_gene(self) -> sparse.csc_matrix:
        """The same log-expression, from which few genes are taken quickly."""
        return self.log.tocsc()

    def alone(self, sets: np.ndarray) -> np.ndarray:
        """Logits of the test cells by regressions that see one set of genes only: cells × sets."""
        logits = np.zeros((len(self.test), len(sets)))
        for i, columns in enumerate(sets if sets.shape[1] else ()):
            few = self.by_gene[:, columns].toarray()
            scaler = StandardScaler().fit(few[self.train])
            model = ridge(scaler.transform(few[self.train]), self.positive[self.train])
            logits[:, i] = model.decision_function(scaler.transform(few[self.test]))
        return logits

    def part(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Contribution of each set to the logits of the regression of all genes: cells × sets.

        The regression is the same for all sets: its other weights do not get the chance to take
        over (DeYoung et al. 2020, arXiv:1911.03429). So a set whose genes have stand-ins is not
        called worthless.
        """
        columns = np.concatenate([np.asarray(s, dtype=np.int64) for s in sets])
        ends = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
        members = sparse.csc_matrix(
            (self.weights[0][columns], columns, ends), shape=(self.log.shape[1], len(sets))
        )
        return np.asarray((self.log[self.test] @ members).toarray())

    def all_genes(self) -> np.ndarray:
        """Logits of the test cells by the regression of all genes: cells × 1."""
        logits = self.log[self.test] @ self.weights[0] + self.weights[1]
        return np.asarray(logits)[:, None]
