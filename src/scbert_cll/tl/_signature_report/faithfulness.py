"""Criteria of held-out donors: whether the genes suffice, and whether they are missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from scbert_cll._counts import log_normalised
from scbert_cll._evaluation.within_donors import Pairs
from scbert_cll._signature.linear_filter import ridge
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, against, verdict
from scbert_cll._signature.report.ranking import Comparison, Ordered

KINDS: Final = (criteria.SUFFICIENCY, criteria.COMPREHENSIVENESS)
STEPS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_RANDOM, _INSERTION, _DELETION = "random", "insertion", "deletion"
_BAND: Final = 50  # random sets behind a curve

# subject, and criterion or direction of a curve
type Scores = dict[tuple[str, str], Pairs]


class Reader(Protocol):
    """What tells the classes of cells apart, by sets of genes; each set gives one logit a cell."""

    def whole(self) -> Pairs:
        """By all genes."""

    def alone(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By the genes of each set, as well as they can."""

    def only(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By the genes of each set, as they take part in all."""

    def without(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By the other genes."""


@dataclass(frozen=True)
class Fold:
    """Logistic regressions that learn from some cells, and read those of other donors."""

    log: sparse.csr_matrix  # (cells, tested genes)
    positive: np.ndarray
    peers: np.ndarray  # donors, within which cells are ranked, or groups of them
    is_test: np.ndarray

    @cached_property
    def by_gene(self) -> sparse.csc_matrix:
        """The same log-expression, from which few genes are taken quickly."""
        return self.log.tocsc()

    @cached_property
    def all_genes(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight of each gene in a regression of all, and its logits of the test cells (n, 1)."""
        train = self.log[~self.is_test]
        scaler = StandardScaler(with_mean=False).fit(train)
        model = ridge(scaler.transform(train), self.positive[~self.is_test])
        weights = model.coef_[0] / scaler.scale_
        logits = self.log[self.is_test] @ weights + float(model.intercept_[0])
        return weights, np.asarray(logits)[:, None]

    def whole(self) -> Pairs:
        """By the regression of all genes."""
        return self._pairs(self.all_genes[1])

    def alone(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By regressions that see one set of genes only."""
        logits = np.zeros((self.is_test.sum(), len(sets)))
        for i, columns in enumerate(sets if len(sets[0]) else ()):
            few = self.by_gene[:, columns].toarray()
            scaler = StandardScaler().fit(few[~self.is_test])
            few_train = scaler.transform(few[~self.is_test])
            model = ridge(few_train, self.positive[~self.is_test])
            logits[:, i] = model.decision_function(scaler.transform(few[self.is_test]))
        return self._pairs(logits)

    def only(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By their part in the regression of all genes."""
        return self._pairs(self._part(sets))

    def without(self, sets: Sequence[np.ndarray]) -> Pairs:
        """By the regression of all genes less their part."""
        return self._pairs(self.all_genes[1] - self._part(sets))

    def _part(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Contribution of each set to the logits of the regression of all genes: cells × sets.

        The regression is the same for all sets: its other weights do not get the chance to take
        over (DeYoung et al. 2020, arXiv:1911.03429). So a set whose genes have stand-ins is not
        called worthless.
        """
        columns = np.concatenate([np.asarray(s, dtype=np.int64) for s in sets])
        ends = np.concatenate([[0], np.cumsum([len(s) for s in sets])])
        values, shape = self.all_genes[0][columns], (self.log.shape[1], len(sets))
        members = sparse.csc_matrix((values, columns, ends), shape=shape)
        return np.asarray((self.log[self.is_test] @ members).toarray())

    def _pairs(self, logits: np.ndarray) -> Pairs:
        return Pairs.of(logits, self.positive[self.is_test], self.peers[self.is_test])


def held_out(
    compared: Comparison, n_random: int, rng: np.random.Generator
) -> tuple[list[Criterion], pd.DataFrame]:
    """Both criteria of every subject, and the curves, by a logistic regression.

    Each fold finds its own genes.
    """
    data, rows = compared.data, compared.data.extremes
    log = log_normalised(data.counts.tested.matrix[rows])
    matcher = Matcher(log.mean(axis=0).A1, data.counts.tested.detected)
    steps = [step for step in STEPS if matcher.fits(step)]
    questions = Questions(matcher, steps, n_random, min(n_random, _BAND), rng)
    folds = []
    for left_out in data.folds:
        is_test = np.isin(data.donors[rows], left_out)
        fold = Fold(log, data.positive[rows], data.peers[rows], is_test)
        folds.append(questions.answers(fold, compared.ordered(left_out)))
    scores, curves = (
        {key: Pairs.stacked([fold[key] for fold in of_folds]) for key in of_folds[0]}
        for of_folds in zip(*folds, strict=True)
    )
    return criteria_of(scores, rng), curve_table(curves, steps, "linear")


@dataclass(frozen=True)
class Questions:
    """Random sets of genes like those of a subject, and the steps of curves."""

    matcher: Matcher
    steps: Sequence[int]
    n_random: int
    n_band: int  # random sets behind a curve
    rng: np.random.Generator

    def answers(self, reader: Reader, orders: Ordered) -> tuple[Scores, Scores]:
        """What a reader does by the genes of each subject, by random ones, and along the curves."""
        scores: Scores = {}
        curves: Scores = {}
        first, draw = {}, self.matcher.draw
        for name, (order, n) in orders.items():
            sets = [order[:n], *draw(order[:n], self.n_random, self.rng)]
            lost = reader.whole().less(reader.without(sets))
            scores[name, criteria.SUFFICIENCY] = reader.alone(sets)
            scores[name, criteria.COMPREHENSIVENESS] = lost
            first[name] = [order[:k] for k in self.steps]
        starts = first[criteria.SIGNATURE]
        like = [draw(genes, self.n_band, self.rng) for genes in starts]
        first[_RANDOM] = [genes for drawn in like for genes in drawn]
        for name, sets in first.items():
            curves[name, _INSERTION] = reader.only(sets)
            curves[name, _DELETION] = reader.without(sets)
        return scores, curves


def criteria_of(
    scores: Scores, rng: np.random.Generator, prefix: str = "", note: str = ""
) -> list[Criterion]:
    """The first logit of each subject against those of random sets, and against abundance."""
    rows = []
    for (subject, kind), pairs in scores.items():
        value, *random = pairs.auroc()
        ends = None if kind == criteria.COMPREHENSIVENESS else (0.0, 1.0)
        limits = pairs.interval(rng, ends)
        null, rule = against(value, np.array(random)), "p ≤ 0.05"
        passed = null.p <= criteria.LEVEL
        if subject != criteria.ABUNDANCE and (criteria.ABUNDANCE, kind) in scores:
            rule += ", and more than abundance"
            passed &= bool(value > scores[criteria.ABUNDANCE, kind].auroc()[0])
        numbers = value, limits.low, limits.high, *null
        row = Criterion(prefix + kind, subject, *numbers, rule, verdict(passed), note)
        rows.append(row)
    return sorted(rows, key=lambda row: row.gate, reverse=True)


def curve_table(curves: Scores, steps: Sequence[int], reader: str) -> pd.DataFrame:
    """``reader``, ``subject``, ``direction``, number of genes ``k``, and ``value``.

    Of random sets the mean, ``low`` and ``high`` (90 %).
    """
    rows = []
    for (subject, direction), pairs in curves.items():
        of_steps = pairs.auroc().reshape(len(steps), -1)
        for step, values in zip(steps, of_steps, strict=True):
            mean, low, high = values.mean(), np.nan, np.nan
            if subject == _RANDOM:
                low, high = np.quantile(values, [0.05, 0.95])
            ends = np.minimum(low, mean), np.maximum(high, mean)
            rows.append((reader, subject, direction, step, mean, *ends))
    columns = ["reader", "subject", "direction", "k", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).rename(index=str)
