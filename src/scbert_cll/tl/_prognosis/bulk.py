"""Bulk expression: scores of gene sets, and random sets like one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.counts import slot, stored
from scbert_cll._gene_names import resolver
from scbert_cll._signature import decoupler
from scbert_cll._signature.matched import Matcher

WEIGHTED = "weighted"
_SETS_AT_ONCE = 250
_LARGEST_LOG = 50.0


@dataclass(frozen=True)
class Bulk:
    """Log-expression, samples × genes; NaN where a gene was not measured."""

    values: np.ndarray
    names: pd.Index

    @classmethod
    def of(cls, adata: AnnData, layer: str | None) -> Bulk:
        """Dense log-expression of X or a layer."""
        source = slot(adata, layer)
        where = source.where
        if source.values is None or not adata.n_vars:
            raise ValueError(
                f"{where} has no expression, and a signature needs some; score_key= takes a "
                "column of obs instead."
            )
        values = np.asarray(stored(adata, source).toarray(), dtype=np.float64)
        if n_infinite := int(np.isinf(values).sum()):
            raise ValueError(
                f"{where} holds {n_infinite} infinite values (log of 0?); add 1 before taking logs."
            )
        if np.isnan(values).all():
            raise ValueError(f"{where} holds no value that is not NaN.")
        if (largest := np.nanmax(values)) > _LARGEST_LOG:
            raise ValueError(
                f"{where} must be log-expression; its largest value is {largest:g}. Take logs "
                "first: sc.pp.normalize_total(adata) and sc.pp.log1p(adata) for counts, np.log2 "
                "for intensities."
            )
        return cls(values, adata.var_names)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each gene: samples in which it was measured, their mean, and values minus the mean."""
        measured = np.isfinite(self.values)
        n = np.maximum(measured.sum(axis=0), 1)
        mean = np.where(measured, self.values, 0).sum(axis=0) / n
        return n, mean, np.where(measured, self.values - mean, 0.0)

    @cached_property
    def standardized(self) -> np.ndarray:
        """Each gene in standard deviations from its mean over the samples.

        A missing value is at the mean, and so is a constant gene.
        """
        n, _, centred = self._moments
        spread = np.sqrt((centred**2).sum(axis=0) / np.maximum(n - 1, 1))
        return np.asarray(centred / np.where(spread > 0, spread, np.inf))

    @cached_property
    def usable(self) -> np.ndarray:
        """Genes (positions) that differ between samples."""
        return np.flatnonzero((self.standardized != 0).any(axis=0))

    def places_of(self, genes: Iterable[str]) -> np.ndarray:
        """Place of each gene, by any of its names, that differs between samples; else −1."""
        places = resolver.places_of(genes, self.names)
        return np.where(np.isin(places, self.usable), places, -1)

    def measured(self, weight: pd.Series) -> np.ndarray:
        """Share of the weight, by sample, that lies on measured genes."""
        measured = np.isfinite(self.values[:, self.names.get_indexer(weight.index)])
        return np.asarray(measured @ weight.abs().to_numpy() / weight.abs().sum())

    def scores(self, sets: np.ndarray, weight: np.ndarray, method: str) -> np.ndarray:
        """Samples × sets: scores of sets of genes (sets × genes, positions) with these weights."""
        if method == WEIGHTED:
            total = np.zeros((len(self.values), len(sets)))
            for place, w in enumerate(weight):
                total += w * self.standardized[:, sets[:, place]]
            return total
        parts = []
        for start in range(0, len(sets), _SETS_AT_ONCE):
            some = enumerate(sets[start : start + _SETS_AT_ONCE], start)
            named = ((f"set{i:04d}", self.names[row]) for i, row in some)
            part = {name: pd.Series(weight, genes) for name, genes in named}
            parts.append(decoupler.scores(self.values, self.names, part, method))
        return np.hstack(parts)

    def meta_gene(self, genes: Sequence[str]) -> tuple[np.ndarray | None, int]:
        """Mean of these genes in standard deviations, from at least two, and how many there are."""
        places = self.places_of(dict.fromkeys(genes))
        places = places[places >= 0]
        if len(places) < 2:
            return None, len(places)
        return unit(self.standardized[:, places].mean(axis=1)), len(places)

    def random_sets(
        self, genes: np.ndarray, n_sets: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Sets × genes (positions) like `genes`; None if there are too few genes.

        Alike in mean and in spread or, with unmeasured values, in how often they were measured.
        """
        usable, (n, mean, centred) = self.usable, self._moments
        complete = np.isfinite(self.values[:, usable]).all()
        second = np.sqrt((centred**2).sum(axis=0) / n) if complete else n
        matcher = Matcher(mean[usable], second[usable])
        if not matcher.fits(len(genes)) or not np.isin(genes, usable).all():
            return None
        drawn = matcher.draw(np.searchsorted(usable, genes), n_sets, rng)
        return np.asarray(usable[drawn])


def unit(values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 of the known values, by column; a constant stays 0."""
    centred = values - np.nanmean(values, axis=0)
    spread = np.nanstd(centred, axis=0, ddof=1)
    return np.asarray(centred / np.where(spread > 1e-12, spread, np.inf))
