"""Scores of bulk samples: of one signature, and of random ones like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from scbert_cll._signature import decoupler
from scbert_cll._signature.matched import Matcher

WEIGHTED = "weighted"
_SETS_AT_ONCE = 250


@dataclass(frozen=True)
class Bulk:
    """Log-expression, samples × genes; NaN where a gene was not measured."""

    values: np.ndarray
    names: pd.Index

    @cached_property
    def standardized(self) -> np.ndarray:
        """Each gene in standard deviations from its mean over the samples.

        What was not measured is at the mean, a constant gene, too.
        """
        known = np.isfinite(self.values)
        n = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, self.values, 0).sum(axis=0) / n
        centred = np.where(known, self.values - mean, 0.0)
        spread = np.sqrt((centred**2).sum(axis=0) / np.maximum(n - 1, 1))
        return np.asarray(centred / np.where(spread > 0, spread, np.inf))

    @cached_property
    def usable(self) -> np.ndarray:
        """Genes (positions) that differ between samples."""
        return np.flatnonzero((self.standardized != 0).any(axis=0))

    def measured(self, weight: pd.Series) -> np.ndarray:
        """Share of the weight, by sample, that lies on measured genes."""
        known = np.isfinite(self.values[:, self.names.get_indexer(weight.index)])
        return np.asarray(known @ weight.abs().to_numpy() / weight.abs().sum())

    def scores(self, sets: np.ndarray, weight: np.ndarray, method: str) -> np.ndarray:
        """Samples × sets: scores of sets of genes (sets × genes, positions) with these weights."""
        if method != WEIGHTED:
            return self._by_decoupler(sets, weight, method)
        found = np.zeros((len(self.values), len(sets)))
        for place, w in enumerate(weight):
            found += w * self.standardized[:, sets[:, place]]
        return found

    def _by_decoupler(self, sets: np.ndarray, weight: np.ndarray, method: str) -> np.ndarray:
        parts = []
        for start in range(0, len(sets), _SETS_AT_ONCE):
            some = sets[start : start + _SETS_AT_ONCE]
            weights = {
                f"set{i:04d}": pd.Series(weight, self.names[genes]) for i, genes in enumerate(some)
            }
            parts.append(decoupler.scores(self.values, self.names, weights, method))
        return np.hstack(parts)

    def meta_gene(self, genes: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
        """Mean of these genes in standard deviations, from at least two of them, and which they were."""
        found = [gene for gene in dict.fromkeys(genes) if gene in set(self.names[self.usable])]
        if len(found) < 2:
            return None, found
        return unit(
            self.standardized[:, self.names.get_indexer(pd.Index(found))].mean(axis=1)
        ), found

    def random_sets(
        self, genes: np.ndarray, n_sets: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Sets × genes (positions): like `genes` in mean and in spread (or, with unmeasured values, in how often they were measured); None if there are too few genes."""
        usable, known = self.usable, np.isfinite(self.values)
        n = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, self.values, 0).sum(axis=0) / n
        spread = np.sqrt((np.where(known, self.values - mean, 0) ** 2).sum(axis=0) / n)
        second = spread if known[:, usable].all() else n
        matcher = Matcher(mean[usable], second[usable])
        inside = np.searchsorted(usable, genes)
        if not matcher.fits(len(genes)) or not np.isin(genes, usable).all():
            return None
        return np.asarray(usable[matcher.draw(inside, n_sets, rng)])


def unit(values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 of the known values, by column; a constant stays 0."""
    centred = values - np.nanmean(values, axis=0)
    spread = np.nanstd(centred, axis=0, ddof=1)
    return np.asarray(centred / np.where(spread > 1e-12, spread, np.inf))
