"""Criteria of held-out donors: whether the genes suffice, and whether they are missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._counts import log_normalised
from scbert_cll._evaluation.pairs import Pairs
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, against, verdict
from scbert_cll._signature.report.folds import Fold
from scbert_cll._signature.report.ranking import Comparison

KINDS: Final = (criteria.SUFFICIENCY, criteria.COMPREHENSIVENESS)
STEPS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
RANDOM, INSERTION, DELETION = "random", "insertion", "deletion"
_BAND: Final = 50  # random sets behind a curve

# subject, and criterion or direction of a curve
type Scores = dict[tuple[str, str], Pairs]


def held_out(
    compared: Comparison, n_random: int, rng: np.random.Generator
) -> tuple[list[Criterion], pd.DataFrame]:
    """Both criteria of every subject, and the curves, by a logistic regression.

    Each fold finds its own genes.
    """
    data = compared.data
    log = log_normalised(data.tested.matrix[data.extremes])
    matcher = Matcher(log.mean(axis=0).A1, data.tested.detected)
    steps = [step for step in STEPS if matcher.fits(step)]
    n_band = min(n_random, _BAND)
    scores: list[Scores] = []
    curves: list[Scores] = []
    for left_out in data.folds:
        fold, orders = Fold.of(data, log, left_out), compared.ordered(left_out)
        donors = data.donors[data.extremes][fold.test]
        sets = {
            subject: np.vstack([order[:n], matcher.draw(order[:n], n_random, rng)])
            for subject, (order, n) in orders.items()
        }
        scores.append(_scores(fold, sets, donors))
        first = {name: [order[:step] for step in steps] for name, (order, _) in orders.items()}
        like = first[criteria.SIGNATURE]
        first[RANDOM] = [one for genes in like for one in matcher.draw(genes, n_band, rng)]
        curves.append(_curves(fold, first, donors))
    return criteria_of(_stacked(scores), rng), curve_table(_stacked(curves), steps, "linear")


def _stacked(folds: list[Scores]) -> Scores:
    """Donors of all folds, one below the other."""
    return {key: Pairs.stacked([fold[key] for fold in folds]) for key in folds[0]}


def _scores(fold: Fold, sets: Mapping[str, np.ndarray], donors: np.ndarray) -> Scores:
    """AUROC of the genes of each set alone, and what is lost without them."""
    positive, logits = fold.positive[fold.test], fold.all_genes()
    whole = Pairs.of(logits, positive, donors)
    scores: Scores = {}
    for subject, members in sets.items():
        without = Pairs.of(logits - fold.part(list(members)), positive, donors)
        scores[subject, criteria.SUFFICIENCY] = Pairs.of(fold.alone(members), positive, donors)
        scores[subject, criteria.COMPREHENSIVENESS] = whole.less(without)
    return scores


def _curves(fold: Fold, sets: Mapping[str, list[np.ndarray]], donors: np.ndarray) -> Scores:
    """AUROC with the first genes only, and without them, in the regression of all genes."""
    positive, logits = fold.positive[fold.test], fold.all_genes()
    curves: Scores = {}
    for subject, members in sets.items():
        part = fold.part(members)
        curves[subject, INSERTION] = Pairs.of(part, positive, donors)
        curves[subject, DELETION] = Pairs.of(logits - part, positive, donors)
    return curves


def criteria_of(
    scores: Scores, rng: np.random.Generator, prefix: str = "", note: str = ""
) -> list[Criterion]:
    """The first logit of each subject against those of random sets, and against abundance."""
    rows = []
    for (subject, kind), pairs in scores.items():
        value, *random = pairs.auroc()
        limits = pairs.interval(rng, difference=kind == criteria.COMPREHENSIVENESS)
        null, rule = against(value, np.array(random)), "p ≤ 0.05"
        passed = null.p <= criteria.LEVEL
        if subject != criteria.ABUNDANCE and (criteria.ABUNDANCE, kind) in scores:
            rule += ", and more than abundance"
            passed &= bool(value > scores[criteria.ABUNDANCE, kind].auroc()[0])
        name = f"{prefix}{kind}"
        rows.append(Criterion(name, subject, value, *limits, *null, rule, verdict(passed), note))
    return sorted(rows, key=lambda row: row.gate, reverse=True)


def curve_table(curves: Scores, steps: list[int], reader: str) -> pd.DataFrame:
    """``reader``, ``subject``, ``direction``, number of genes ``k``, and ``value``.

    Of random sets the mean, ``low`` and ``high`` (90 %).
    """
    rows = []
    for (subject, direction), pairs in curves.items():
        for step, values in zip(steps, pairs.auroc().reshape(len(steps), -1), strict=True):
            mean = values.mean()
            low, high = np.quantile(values, [0.05, 0.95]) if subject == RANDOM else (np.nan, np.nan)
            ends = np.minimum(low, mean), np.maximum(high, mean)
            rows.append((reader, subject, direction, step, mean, *ends))
    columns = ["reader", "subject", "direction", "k", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).rename(index=str)
