"""Criteria of a network: what it loses without the genes, and whether what it says was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

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
_NONE_HELD_OUT: Final = "cells the network was trained on, as there are no others"
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
        in_model, donors = places >= 0, data.complete_donors
        values = np.zeros((len(runs), len(donors), len(places)))
        weight = np.zeros(len(donors))
        for d, donor in enumerate(donors):
            rows = np.flatnonzero(data.donors == donor)
            received = self.model.get_cell_attention(self.cells[rows], batch_size=self.batch_size)
            member = np.stack([run.positive[rows] / run.positive[rows].sum() for run in runs])
            values[:, d, in_model] = (received.T @ member.T).T[:, places[in_model]]
            weight[d] = data.positive[rows].sum()
        return Ranking(values, weight, donors, data.tested.genes)

    def criteria(
        self, compared: Comparison, n_random: int, n_refits: int, rng: np.random.Generator
    ) -> tuple[list[Criterion], pd.DataFrame]:
        """All criteria of the network, and its curves."""
        rows, note = self._held_out()
        left_out = [] if note == _NONE_HELD_OUT else sorted(set(self.data.donors[rows]))
        rows = np.sort(rng.permutation(rows)[:_MOST_CELLS])
        asked_of = _Cells(self.model, self.cells[rows], self.data, rows, self.batch_size)
        in_model = self.data.tested.genes.isin(self.model.genes)
        orders = {
            name: (order[in_model[order]], int(in_model[order[:n]].sum()))
            for name, (order, n) in compared.ordered(left_out).items()
        }
        if orders[criteria.SIGNATURE][1]:
            results, curves = _faithful(asked_of, orders, n_random, note, rng)
        else:
            why = f"no signature without the donors of the {note}"
            kinds = [f"{_PREFIX}{kind}" for kind in faithfulness.KINDS]
            results = [Criterion(kind, name, note=why) for kind in kinds for name in orders]
            curves = pd.DataFrame()
        trained = asked_of.scores(self.model)
        results += _lost_with_weights(asked_of, trained, rng)
        if n_refits:
            others = [asked_of.scores(self._refit(rng)) for _ in range(n_refits)]
            results += _refitted(trained, others, compared.k)
        return results, curves

    def _held_out(self) -> tuple[np.ndarray, str]:
        """Cells of the extreme classes that the network was not trained on, and their name."""
        extremes = self.data.extremes
        if self.split_key in self.cells.obs:
            parts = _checks.adata.split(self.cells, self.split_key, need=()).to_numpy()[extremes]
            for part in (_keys.TEST, _keys.VAL):
                if (parts == part).any():
                    return extremes[parts == part], f"{part} cells"
        return extremes, _NONE_HELD_OUT

    def _refit(self, rng: np.random.Generator) -> ScBERTClassifier:
        """A network trained as long as the model, on labels permuted within donors."""
        from scbert_cll.model.explain.randomization import untrained_on

        cells = self.cells.copy()
        codes, classes = self.data.permuted(rng).codes, pd.Index(self.data.classes)
        cells.obs[self.model.labels_key] = pd.Categorical.from_codes(codes, classes)
        new = untrained_on(self.model, cells, rng)
        split = self.split_key if self.split_key in cells.obs else None
        epochs = max(map(len, (self.model.history or {}).values()), default=None)
        seed = int(rng.integers(2**31))
        new.train(epochs, split_key=split, rng=seed, enable_progress_bar=False)
        return new


class _Cells(NamedTuple):
    """Cells, some rows of the data, and a network that ranks them and scores the genes in them."""

    model: ScBERTClassifier
    cells: AnnData
    data: PseudobulkData
    rows: np.ndarray
    batch_size: int | None

    def ranked(self, sets: list[np.ndarray] | None = None, *, keep: bool = False) -> Pairs:
        """Ranks of whole cells, of cells without each set of genes, or with nothing else."""
        parts = self.model.predict_parts(self.cells, batch_size=self.batch_size)
        proba = parts.network.to_numpy(np.float64)
        log = np.log(np.maximum(proba, np.finfo(np.float32).tiny))
        logits = (log[:, -1] - log[:, :-1].mean(axis=1))[:, None]
        if sets is not None:
            genes, target = self.data.tested.genes, self.data.classes[-1]
            named = {str(i): genes[places].tolist() for i, places in enumerate(sets)}
            effects = self.model.get_set_effects(
                named, self.cells, keep=keep, target=target, batch_size=self.batch_size
            )
            logits = logits + effects.to_numpy()
        mean = np.broadcast_to(np.nanmean(logits, axis=0), logits.shape)
        logits = np.where(np.isnan(logits), mean, logits)  # of a cell of which nothing is left
        return Pairs.of(logits, self.data.positive[self.rows], self.data.donors[self.rows])

    def scores(self, model: ScBERTClassifier) -> dict[str, np.ndarray]:
        """Scores of the genes: attribution by its size in expressing cells, attention in all."""
        cells, size, target = self.cells, self.batch_size, self.data.classes[-1]
        groups = pd.Series("all", cells.obs_names, dtype="category")
        attribution = model.get_gene_attribution(groups, cells, target=target, batch_size=size)
        attention = model.get_gene_attention(groups, cells, batch_size=size)
        scores = {ATTRIBUTION: attribution.size, criteria.ATTENTION: attention}
        genes = self.data.tested.genes
        return {
            name: table["all"].reindex(genes, fill_value=0.0).to_numpy()
            for name, table in scores.items()
        }


def _faithful(
    cells: _Cells, orders: Ordered, n_random: int, note: str, rng: np.random.Generator
) -> tuple[list[Criterion], pd.DataFrame]:
    """The network with nothing but the genes, and without them."""
    tested = cells.data.tested
    in_model = np.flatnonzero(tested.genes.isin(cells.model.genes))
    matcher = Matcher(tested.matrix.mean(axis=0).A1[in_model], tested.detected[in_model])
    steps = [step for step in faithfulness.STEPS if step >= _FIRST and matcher.fits(step)]

    def like(genes: np.ndarray, n_sets: int) -> list[np.ndarray]:
        return list(in_model[matcher.draw(np.searchsorted(in_model, genes), n_sets, rng)])

    sets = {name: [order[:n], *like(order[:n], n_random)] for name, (order, n) in orders.items()}
    first = {name: [order[:step] for step in steps] for name, (order, _) in orders.items()}
    signature = first[criteria.SIGNATURE]
    first[faithfulness.RANDOM] = [one for genes in signature for one in like(genes, _BAND)]
    whole = cells.ranked()
    scores: Scores = {}
    for name, members in sets.items():
        scores[name, criteria.SUFFICIENCY] = cells.ranked(members, keep=True)
        scores[name, criteria.COMPREHENSIVENESS] = whole.less(cells.ranked(members))
    curves: Scores = {}
    for name, members in first.items():
        curves[name, faithfulness.INSERTION] = cells.ranked(members, keep=True)
        curves[name, faithfulness.DELETION] = cells.ranked(members)
    table = faithfulness.curve_table(curves, steps, "network")
    return faithfulness.criteria_of(scores, rng, _PREFIX, note), table


def _lost_with_weights(
    cells: _Cells, trained: Mapping[str, np.ndarray], rng: np.random.Generator
) -> list[Criterion]:
    """Whether what is said of genes is gone with the weights."""
    results = []
    for part, (name, most) in _RANDOM_WEIGHTS.items():
        streams = rng.spawn(_N_RANDOM)
        drawn = [cells.scores(cells.model.randomized(part, stream)) for stream in streams]
        for subject, values in trained.items():
            rho = [float(stats.spearmanr(values, one[subject]).statistic) for one in drawn]
            mean, rule = float(np.mean(rho)), f"rank correlation below {most}"
            row = Criterion(name, subject, mean, min(rho), max(rho), rule=rule, note=_DRAWN)
            results.append(row._replace(passed=verdict(mean < most)))
    return results


def _refitted(
    trained: Mapping[str, np.ndarray], others: list[dict[str, np.ndarray]], k: int
) -> list[Criterion]:
    """Whether networks that were trained on permuted labels say the same of genes."""
    results = []
    rule = "no more genes in common than 95 % of random sets"
    note = f"share of the first {k} genes, on average with {len(others)} such networks"
    for name, values in trained.items():
        first, n = set(largest(values, k)), len(values)
        shares = [len(first & set(largest(scores[name], k))) / k for scores in others]
        mean, most = float(np.mean(shares)), float(stats.hypergeom.ppf(0.95, n, k, k) / k)
        numbers = mean, min(shares), max(shares), k / n, most, np.nan
        results.append(Criterion(REFITTED, name, *numbers, rule, verdict(mean <= most), note))
    return results
