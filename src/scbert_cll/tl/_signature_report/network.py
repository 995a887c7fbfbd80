"""Criteria of a network: what it loses without the genes, and whether what it says was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.pairs import Pairs
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, verdict
from scbert_cll._signature.report.ranking import Comparison, Ordered, Ranking, largest
from scbert_cll.tl._signature_report import faithfulness
from scbert_cll.tl._signature_report.faithfulness import Scores

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

ATTRIBUTION, REFITTED = "attribution", "refitted on permuted labels"
_PREFIX: Final = "network "
_DRAWN: Final = "limits: smallest and largest of the draws"
_MOST_CELLS: Final = 300
_FIRST: Final = 5  # genes, from which a network is asked
_BAND: Final = 5  # random sets behind a curve of the network
_N_RANDOM: Final = 5  # draws of random weights
_RANDOM_WEIGHTS: Final[dict[Literal["head", "all"], tuple[str, float]]] = {
    "head": ("random head", 0.5),
    "all": ("random network", 0.2),
}


@dataclass(frozen=True)
class NetworkReader:
    """A classifier, and the labelled cells of a signature that it is asked about."""

    model: ScBERTClassifier
    cells: AnnData
    data: PseudobulkData
    split_key: str
    batch_size: int | None

    def attention(self, permuted: list[PseudobulkData]) -> Ranking:
        """Ranking by the mean attention a gene receives in positive cells, in one pass."""
        data, runs = self.data, [self.data, *permuted]
        places = self.model.genes.get_indexer(data.tested.genes)
        donors = data.complete_donors
        values = np.zeros((len(runs), len(donors), len(places)))
        weight = np.zeros(len(donors))
        for d, donor in enumerate(donors):
            rows = np.flatnonzero(data.donors == donor)
            received = self.model.get_cell_attention(self.cells[rows], batch_size=self.batch_size)
            member = np.stack([run.positive[rows] / run.positive[rows].sum() for run in runs])
            values[:, d, places >= 0] = (received.T @ member.T).T[:, places[places >= 0]]
            weight[d] = data.positive[rows].sum()
        return Ranking(values, weight, donors, data.tested.genes)

    def criteria(
        self, compared: Comparison, n_random: int, n_refits: int, rng: np.random.Generator
    ) -> tuple[list[Criterion], pd.DataFrame]:
        """All criteria of the network, and its curves."""
        rows, left_out, note = self._held_out()
        rows = np.sort(rng.permutation(rows)[:_MOST_CELLS])
        in_model = self.data.tested.genes.isin(self.model.genes)
        orders = {
            name: (order[in_model[order]], int(in_model[order[:n]].sum()))
            for name, (order, n) in compared.ordered(left_out).items()
        }
        if orders[criteria.SIGNATURE][1]:
            results, curves = self._faithful(orders, n_random, rows, note, rng)
        else:
            why = f"no signature without the donors of the {note}"
            names = [f"{_PREFIX}{kind}" for kind in faithfulness.KINDS]
            results = [Criterion(name, subject, note=why) for name in names for subject in orders]
            curves = pd.DataFrame()
        trained = self._scores(self.model, rows)
        results += self._lost_with_weights(trained, rows, rng)
        results += self._refitted(trained, rows, compared.k, n_refits, rng) if n_refits else []
        return results, curves

    def _held_out(self) -> tuple[np.ndarray, list[str], str]:
        """Cells of the extreme classes that are new to the network, their donors, and their name.

        All cells where it is not known which ones it was trained on.
        """
        extremes = self.data.extremes
        if self.split_key in self.cells.obs:
            parts = _checks.adata.split(self.cells, self.split_key, need=()).to_numpy()
            for part in (_keys.TEST, _keys.VAL):
                if len(rows := extremes[parts[extremes] == part]):
                    return rows, sorted(set(self.data.donors[rows])), f"{part} cells"
        return extremes, [], "cells the network was trained on, as there are no others"

    def _faithful(
        self,
        orders: Ordered,
        n_random: int,
        rows: np.ndarray,
        note: str,
        rng: np.random.Generator,
    ) -> tuple[list[Criterion], pd.DataFrame]:
        """The network with nothing but the genes, and without them."""
        tested = self.data.tested
        in_model = np.flatnonzero(tested.genes.isin(self.model.genes))
        matcher = Matcher(tested.matrix.mean(axis=0).A1[in_model], tested.detected[in_model])
        steps = [step for step in faithfulness.STEPS if step >= _FIRST and matcher.fits(step)]

        def like(genes: np.ndarray, n_sets: int) -> list[np.ndarray]:
            return list(in_model[matcher.draw(np.searchsorted(in_model, genes), n_sets, rng)])

        sets = {
            name: [order[:n], *like(order[:n], n_random)] for name, (order, n) in orders.items()
        }
        first = {name: [order[:step] for step in steps] for name, (order, _) in orders.items()}
        signature = orders[criteria.SIGNATURE][0]
        first[faithfulness.RANDOM] = [
            genes for step in steps for genes in like(signature[:step], _BAND)
        ]
        whole = self._ranked(rows)
        scores: Scores = {}
        for name, members in sets.items():
            scores[name, criteria.SUFFICIENCY] = self._ranked(rows, members, keep=True)
            scores[name, criteria.COMPREHENSIVENESS] = whole.less(self._ranked(rows, members))
        curves = {
            (name, direction): self._ranked(rows, members, keep=direction == faithfulness.INSERTION)
            for name, members in first.items()
            for direction in (faithfulness.INSERTION, faithfulness.DELETION)
        }
        return faithfulness.criteria_of(scores, rng, _PREFIX, note), faithfulness.curve_table(
            curves, steps, "network"
        )

    def _ranked(
        self, rows: np.ndarray, sets: list[np.ndarray] | None = None, *, keep: bool = False
    ) -> Pairs:
        """Cells as the network ranks them: whole, or without each set of genes, or with it alone."""
        cells, size = self.cells[rows], self.batch_size
        proba = self.model.predict_parts(cells, batch_size=size).network.to_numpy(np.float64)
        log = np.log(np.maximum(proba, np.finfo(np.float32).tiny))
        logits = (log[:, -1] - log[:, :-1].mean(axis=1))[:, None]
        if sets is not None:
            genes, target = self.data.tested.genes, self.data.classes[-1]
            names = {str(i): genes[places].tolist() for i, places in enumerate(sets)}
            effects = self.model.get_set_effects(
                names, cells, keep=keep, target=target, batch_size=size
            )
            logits = logits + effects.to_numpy()
        is_empty = np.isnan(logits)  # a cell of which nothing is left is as any other
        logits[is_empty] = np.broadcast_to(np.nanmean(logits, axis=0), logits.shape)[is_empty]
        return Pairs.of(logits, self.data.positive[rows], self.data.donors[rows])

    def _scores(self, model: ScBERTClassifier, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of the genes: attribution by its size in expressing cells, attention in all."""
        cells, size, genes = self.cells[rows], self.batch_size, self.data.tested.genes
        groups = pd.Series("all", cells.obs_names, dtype="category")
        attribution = model.get_gene_attribution(
            groups, cells, target=self.data.classes[-1], batch_size=size
        )
        attention = model.get_gene_attention(groups, cells, batch_size=size)
        scores = {ATTRIBUTION: attribution.size["all"], criteria.ATTENTION: attention["all"]}
        return {
            name: score.reindex(genes, fill_value=0.0).to_numpy() for name, score in scores.items()
        }

    def _lost_with_weights(
        self, trained: Mapping[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator
    ) -> list[Criterion]:
        """Whether what is said of genes is gone with the weights."""
        results = []
        for part, (name, most) in _RANDOM_WEIGHTS.items():
            drawn = [
                self._scores(self.model.randomized(part, stream), rows)
                for stream in rng.spawn(_N_RANDOM)
            ]
            for subject, values in trained.items():
                rho = [float(stats.spearmanr(values, one[subject]).statistic) for one in drawn]
                numbers = float(np.mean(rho)), min(rho), max(rho), np.nan, np.nan, np.nan
                rule, passed = f"rank correlation below {most}", verdict(numbers[0] < most)
                results.append(Criterion(name, subject, *numbers, rule, passed, _DRAWN))
        return results

    def _refitted(
        self,
        trained: Mapping[str, np.ndarray],
        rows: np.ndarray,
        k: int,
        n_refits: int,
        rng: np.random.Generator,
    ) -> list[Criterion]:
        """Whether networks that were trained on permuted labels say the same of genes."""
        shares: dict[str, list[float]] = {name: [] for name in trained}
        for _ in range(n_refits):
            scores = self._scores(self._refit(rng), rows)
            for name, values in trained.items():
                common = set(largest(values, k)) & set(largest(scores[name], k))
                shares[name].append(len(common) / k)
        n = len(self.data.tested.genes)
        most = float(stats.hypergeom.ppf(0.95, n, k, k) / k)
        rule = "no more genes in common than 95 % of random sets"
        note = f"share of the first {k} genes, on average with {n_refits} such networks"
        results = []
        for name, in_common in shares.items():
            mean = float(np.mean(in_common))
            numbers = mean, min(in_common), max(in_common), k / n, most, np.nan
            results.append(Criterion(REFITTED, name, *numbers, rule, verdict(mean <= most), note))
        return results

    def _refit(self, rng: np.random.Generator) -> ScBERTClassifier:
        """A network trained as long as the model, on labels permuted within donors."""
        from scbert_cll.model.explain.randomization import untrained_on

        cells = self.cells.copy()
        codes, classes = self.data.permuted(rng).codes, pd.Index(self.data.classes)
        cells.obs[self.model.labels_key] = pd.Categorical.from_codes(codes, classes)
        new = untrained_on(self.model, cells, rng)
        split = self.split_key if self.split_key in cells.obs else None
        epochs = max((len(one) for one in (self.model.history or {}).values()), default=None)
        new.train(epochs, split_key=split, rng=int(rng.integers(2**31)), enable_progress_bar=False)
        return new
