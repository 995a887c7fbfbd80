"""What genes that were found in some donors are worth in others: alone, and when all others are there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from scbert_cll._signature.linear_filter import ridge
from scbert_cll._signature.report.study import Study


@dataclass(frozen=True)
class Fold:
    """Cells of the outer classes: to learn from and, of other donors, to be told apart."""

    log: sparse.csr_matrix  # (cells, tested genes)
    positive: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, study: Study, log: sparse.csr_matrix, left_out: list[str]) -> Fold:
        """Hold out some donors; `log` has the rows of `study.outer`."""
        away = np.isin(study.donors[study.outer], left_out)
        return cls(log, study.positive[study.outer], np.flatnonzero(~away), np.flatnonzero(away))

    @cached_property
    def weights(self) -> tuple[np.ndarray, float]:
        """Of each gene's log-expression in a logistic regression of all genes, and the intercept."""
        scaler = StandardScaler(with_mean=False).fit(self.log[self.train])
        model = ridge(scaler.transform(self.log[self.train]), self.positive[self.train])
        return model.coef_[0] / scaler.scale_, float(model.intercept_[0])

    @cached_property
    def by_gene(self) -> sparse.csc_matrix:
        """The same numbers, from which few genes are taken quickly."""
        return self.log.tocsc()

    def alone(self, sets: np.ndarray) -> np.ndarray:
        """Logits of the test cells by regressions that see the genes of one set only: cells × sets."""
        found = np.zeros((len(self.test), len(sets)))
        for i, columns in enumerate(sets if sets.shape[1] else ()):
            few = self.by_gene[:, columns].toarray()
            scaler = StandardScaler().fit(few[self.train])
            model = ridge(scaler.transform(few[self.train]), self.positive[self.train])
            found[:, i] = model.decision_function(scaler.transform(few[self.test]))
        return found

    def part(self, sets: list[np.ndarray]) -> np.ndarray:
        """What the genes of each set contribute to the logits of the regression of all genes: cells × sets.

        The regression is the same for all sets: its other weights do not get the chance to take
        over (DeYoung et al. 2020, arXiv:1911.03429). So a set whose genes have stand-ins is not
        called worthless.
        """
        sizes = [len(s) for s in sets]
        columns = np.concatenate([np.asarray(s, dtype=np.int64) for s in sets])
        ends = np.concatenate([[0], np.cumsum(sizes)])
        which = sparse.csc_matrix(
            (self.weights[0][columns], columns, ends), shape=(self.log.shape[1], len(sets))
        )
        return np.asarray((self.log[self.test] @ which).toarray())

    def whole(self) -> np.ndarray:
        """Logits of the test cells by the regression of all genes."""
        return np.asarray(self.log[self.test] @ self.weights[0] + self.weights[1])
