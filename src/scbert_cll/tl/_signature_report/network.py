"""Criteria of a network: what it loses without the genes, and whether what it says was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.within_donors import Pairs
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, verdict
from scbert_cll._signature.report.permutation import Permuter
from scbert_cll._signature.report.ranking import Comparison, Ordered, Ranking, largest
from scbert_cll.tl._signature_report import faithfulness

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

_PREFIX: Final = "network "
_NONE_HELD_OUT: Final = "cells the network was trained on, as there are no others"
_MOST_CELLS: Final = 300
_FIRST: Final = 5  # genes, from which a network is asked
_BAND: Final = 5  # random sets behind a curve of the network
_N_RANDOM: Final = 5  # draws of random weights
_RANDOM_WEIGHTS: Final[dict[Literal["head", "all"], tuple[str, float]]] = {
    "head": ("random head", 0.5),
    "all": ("random network", 0.2),
}

type GeneScores = Mapping[str, np.ndarray]  # what is said of each tested gene, by kind


@dataclass(frozen=True)
class NetworkReader:
    """A classifier, and labelled cells of a signature that it is asked about: rows of the data."""

    model: ScBERTClassifier
    cells: AnnData
    data: PseudobulkData
    rows: np.ndarray
    split_key: str
    batch_size: int | None

    def attention(self, permuted: list[PseudobulkData]) -> Ranking:
        """Ranking by the mean attention a gene receives in positive cells, in one pass."""
        data, runs, size = self.data, [self.data, *permuted], self.batch_size
        donors = data.complete_donors
        every, weight = np.arange(len(data.donors)), np.zeros((len(runs), len(donors)))
        positive = np.stack([run.positive & np.isin(every, run.extremes) for run in runs])
        values = np.zeros((*weight.shape, len(data.counts.tested.genes)))
        columns = self.model.genes.get_indexer(data.counts.tested.genes[self.in_model])
        for d, donor in enumerate(donors):
            rows = np.flatnonzero(data.donors == donor)
            received = self.model.get_cell_attention(self.cells[rows], batch_size=size)
            weight[:, d] = positive[:, rows].sum(axis=1)
            member = positive[:, rows] / np.maximum(weight[:, [d]], 1)
            values[:, d, self.in_model] = (received.T @ member.T).T[:, columns]
        return Ranking(values, weight, donors, data.counts.tested.genes)

    @cached_property
    def in_model(self) -> np.ndarray:
        """Positions of the tested genes that the network knows."""
        return np.flatnonzero(self.data.counts.tested.genes.isin(self.model.genes))

    def criteria(
        self, compared: Comparison, n_sets: int, n_refits: int, rng: np.random.Generator
    ) -> tuple[list[Criterion], pd.DataFrame]:
        """All criteria of the network, and its curves."""
        rows, note = self._held_out()
        left_out = [] if note == _NONE_HELD_OUT else sorted(set(self.data.donors[rows]))
        rows = np.sort(rng.permutation(rows)[:_MOST_CELLS])
        few = replace(self, cells=self.cells[rows], rows=rows)
        orders: Ordered = {}  # positions among the genes that the network knows
        for name, (order, n) in compared.ordered(left_out).items():
            is_in = np.isin(order, self.in_model)
            places = np.searchsorted(self.in_model, order[is_in])
            orders[name] = places, int(is_in[:n].sum())
        if orders[criteria.SIGNATURE][1] and few.ranks_cells:
            tested = self.data.counts.tested
            abundance = tested.matrix.mean(axis=0).A1[self.in_model]
            matcher = Matcher(abundance, tested.detected[self.in_model])
            steps = [k for k in faithfulness.STEPS if k >= _FIRST and matcher.fits(k)]
            questions = faithfulness.Questions(matcher, steps, n_sets, _BAND, rng)
            scores, curves = questions.answers(few, orders)
            results = faithfulness.criteria_of(scores, rng, _PREFIX, note)
            table = faithfulness.curve_table(curves, steps, "network")
        else:
            why = f"no signature without the donors of the {note}"
            why = why if few.ranks_cells else f"the donors of the {note} are of one class"
            kinds = [f"{_PREFIX}{kind}" for kind in faithfulness.KINDS]
            table = pd.DataFrame()
            results = [Criterion(kind, name, note=why) for kind in kinds for name in orders]
        trained = few.scores(self.model)
        results += _lost_with_weights(few, trained, rng)
        if n_refits:
            others = [few.scores(self._refit(rng)) for _ in range(n_refits)]
            results += _refitted(trained, others, compared.k)
        return results, table

    def _held_out(self) -> tuple[np.ndarray, str]:
        """Cells of the extreme classes that the network was not trained on, and their name."""
        extremes = self.data.extremes
        if self.split_key in self.cells.obs:
            parts = _checks.adata.split(self.cells, self.split_key, need=())
            parts = parts.to_numpy()[extremes]
            for part in (_keys.TEST, _keys.VAL):
                if (parts == part).any():
                    return extremes[parts == part], f"{part} cells"
        return extremes, _NONE_HELD_OUT

    def _refit(self, rng: np.random.Generator) -> ScBERTClassifier:
        """A network trained as long as the model, on permuted labels."""
        from scbert_cll.model.explain.randomization import untrained_on

        cells = self.cells.copy()
        [permuted] = Permuter.of(self.data).draw(1, rng)
        codes, classes = permuted.codes, pd.Index(self.data.classes)
        cells.obs[self.model.labels_key] = pd.Categorical.from_codes(codes, classes)
        new = untrained_on(self.model, cells, rng)
        split = self.split_key if self.split_key in cells.obs else None
        epochs = max(map(len, (self.model.history or {}).values()), default=None)
        seed = int(rng.integers(2**31))
        new.train(epochs, split_key=split, rng=seed, enable_progress_bar=False)
        return new

    @cached_property
    def logits(self) -> np.ndarray:
        """Log-odds of the last class against the mean of the others, (cells, 1)."""
        parts = self.model.predict_parts(self.cells, batch_size=self.batch_size)
        proba = parts.network.to_numpy(np.float64)
        log = np.log(np.maximum(proba, np.finfo(np.float32).tiny))
        return np.asarray(log[:, -1] - log[:, :-1].mean(axis=1))[:, None]

    def whole(self) -> Pairs:
        """By whole cells."""
        return self._pairs(self.logits)

    def only(self, sets: Sequence[np.ndarray], *, keep: bool = True) -> Pairs:
        """By cells with nothing but each set of genes, or else without it."""
        genes = self.data.counts.tested.genes[self.in_model]
        target = self.data.classes[-1]
        named = {str(i): genes[places].tolist() for i, places in enumerate(sets)}
        effects = self.model.get_set_effects(
            named, self.cells, keep=keep, target=target, batch_size=self.batch_size
        )
        return self._pairs(self.logits + effects.to_numpy())

    alone = only

    def without(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By cells without each set of genes."""
        return self.only(sets, keep=False)

    def _pairs(self, logits: np.ndarray) -> Pairs:
        # of a cell of which nothing is left
        logits = np.where(np.isnan(logits), np.nanmean(logits, axis=0), logits)
        positive, peers = self.data.positive[self.rows], self.data.peers[self.rows]
        return Pairs.of(logits, positive, peers)

    @property
    def ranks_cells(self) -> bool:
        """Whether there is a pair of cells to rank."""
        return bool(self._pairs(np.zeros((len(self.rows), 1))).n.any())

    def scores(self, model: ScBERTClassifier) -> GeneScores:
        """Scores of the genes: attribution by its size in expressing cells, attention in all."""
        groups = pd.Series("all", self.cells.obs_names, dtype="category")
        size, target = self.batch_size, self.data.classes[-1]
        given = groups, self.cells
        attribution = model.get_gene_attribution(*given, target=target, batch_size=size)
        attention = model.get_gene_attention(*given, batch_size=size)
        tables = {"attribution": attribution.size, criteria.ATTENTION: attention}
        genes = self.data.counts.tested.genes
        scores = pd.DataFrame({name: table["all"] for name, table in tables.items()})
        scores = scores.reindex(genes, fill_value=0.0)
        return {name: scores[name].to_numpy() for name in tables}


def _lost_with_weights(
    reader: NetworkReader, trained: GeneScores, rng: np.random.Generator
) -> list[Criterion]:
    """Whether what is said of genes is gone with the weights."""
    results, note = [], "limits: smallest and largest of the draws"
    for part, (name, most) in _RANDOM_WEIGHTS.items():
        streams = rng.spawn(_N_RANDOM)
        models = (reader.model.randomized(part, stream) for stream in streams)
        drawn = [reader.scores(model) for model in models]
        for subject, values in trained.items():
            tests = (stats.spearmanr(values, scores[subject]) for scores in drawn)
            rho = [float(test.statistic) for test in tests]
            mean, rule = float(np.mean(rho)), f"rank correlation below {most}"
            row = Criterion(name, subject, mean, min(rho), max(rho), note=note)
            results.append(row._replace(rule=rule, passed=verdict(mean < most)))
    return results


def _refitted(trained: GeneScores, others: list[GeneScores], k: int) -> list[Criterion]:
    """Whether networks that were trained on permuted labels say the same of genes."""
    results, name = [], "refitted on permuted labels"
    rule = "no more genes in common than 95 % of random sets"
    note = f"share of the first {k} genes, on average with {len(others)} such networks"
    for subject, values in trained.items():
        first, n = largest(values, k), len(values)
        common = (np.isin(first, largest(scores[subject], k)) for scores in others)
        shares = [float(is_common.sum() / k) for is_common in common]
        mean = float(np.mean(shares))
        most = float(stats.hypergeom.ppf(0.95, n, k, k) / k)
        numbers = mean, min(shares), max(shares), k / n, most, np.nan
        row = Criterion(name, subject, *numbers, rule, verdict(mean <= most), note)
        results.append(row)
    return results
