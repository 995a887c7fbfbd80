"""Gates on held-out donors: whether the genes suffice, and whether they are missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._evaluation.pairs import Pairs
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report.criteria import LEVEL, Gate, Numbers, high_of, p_of
from scbert_cll._signature.report.folds import Fold
from scbert_cll._signature.report.ranking import Ranking
from scbert_cll._signature.report.study import Study, selected
from scbert_cll._signature.scale import log_counts

SUFFICIENCY, COMPREHENSIVENESS = "sufficiency", "comprehensiveness"
KINDS: Final = (SUFFICIENCY, COMPREHENSIVENESS)
STEPS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_BAND: Final = 50  # random sets behind a curve
ABUNDANCE, SIGNATURE, RANDOM = "abundance", "signature", "random"

Ordered = dict[
    str, tuple[np.ndarray, int]
]  # subject: all its genes in order (positions), and how many of them are meant


def held_out(
    study: Study, rankings: Mapping[str, Ranking], k: int, n_random: int, rng: np.random.Generator
) -> tuple[list[Gate], pd.DataFrame]:
    """Both gates of every subject and the curves, by a logistic regression.

    Each fold finds its own genes.
    """
    log = log_counts(study.tested_counts[study.outer])
    matcher = Matcher(log.mean(axis=0).A1, study.detected)
    scores: dict[tuple[str, str], list[Pairs]] = {}
    curves: dict[tuple[str, str], list[Pairs]] = {}
    steps = [step for step in STEPS if matcher.fits(step)]
    for left_out in study.folds():
        fold, orders = (
            Fold.of(study, log, left_out),
            ordered(study.without(left_out), study.genes, rankings, left_out, k),
        )
        donors = study.donors[study.outer][fold.test]
        for subject, (order, n) in orders.items():
            sets = np.vstack([order[:n], matcher.draw(order[:n], n_random, rng)])
            for kind, pairs in _scored(fold, sets, donors).items():
                scores.setdefault((subject, kind), []).append(pairs)
        for key, pairs in _curves(
            fold, orders, steps, matcher, min(n_random, _BAND), donors, rng
        ).items():
            curves.setdefault(key, []).append(pairs)
    stacked = {key: Pairs.stacked(parts) for key, parts in scores.items()}
    table = curve_table(
        {key: Pairs.stacked(parts) for key, parts in curves.items()}, steps, "linear"
    )
    return gates_of(stacked, rng), table


def ordered(
    training: Study, genes: pd.Index, rankings: Mapping[str, Ranking], left_out: list[str], k: int
) -> Ordered:
    """The subjects' genes, found without the donors that are held out.

    The signature as many as it has there.
    """
    found = training.find()
    names = found.genes["gene"].tolist() if len(found.genes) else []
    own = _positions(genes, names), len(selected(found))
    plain = {
        name: (_positions(genes, ranking.order(left_out)), k) for name, ranking in rankings.items()
    }
    return {SIGNATURE: own} | plain


def _positions(genes: pd.Index, names: list[str]) -> np.ndarray:
    """Where they are among the tested genes.

    Those tested in the training donors only are left out.
    """
    found = genes.get_indexer(pd.Index(names, dtype=object))
    return np.asarray(found[found >= 0])


def _scored(fold: Fold, sets: np.ndarray, donors: np.ndarray) -> dict[str, Pairs]:
    """By the genes of each set alone, and what is lost without them."""
    positive = fold.positive[fold.test]
    whole = fold.whole()[:, None]
    without = Pairs.of(whole - fold.part(list(sets)), positive, donors)
    return {
        SUFFICIENCY: Pairs.of(fold.alone(sets), positive, donors),
        COMPREHENSIVENESS: Pairs.of(whole, positive, donors).less(without),
    }


def gates_of(
    scores: Mapping[tuple[str, str], Pairs], rng: np.random.Generator, of: str = ""
) -> list[Gate]:
    """First logit against the others, which are of random sets.

    And against the first genes by abundance.
    """
    found = []
    for (subject, kind), pairs in scores.items():
        value, null = pairs.auroc()[0], pairs.auroc()[1:]
        low, high = pairs.interval(rng, difference=kind == COMPREHENSIVENESS)
        p, rule = p_of(value, null), "p ≤ 0.05"
        passed = p <= LEVEL
        if subject != ABUNDANCE and (ABUNDANCE, kind) in scores:
            rule += ", and more than abundance"
            passed &= bool(value > scores[ABUNDANCE, kind].auroc()[0])
        numbers = Numbers(value, low, high, null.mean(), high_of(null), p)
        found.append(Gate.of(f"{of}{kind}", subject, numbers, rule, passed=passed))
    return sorted(found, key=lambda gate: gate.gate, reverse=True)


def _curves(
    fold: Fold,
    orders: Ordered,
    steps: list[int],
    matcher: Matcher,
    n_random: int,
    donors: np.ndarray,
    rng: np.random.Generator,
) -> dict[tuple[str, str], Pairs]:
    """Deletion and insertion of the first genes, in the regression of all.

    Random ones are like the signature's.
    """
    sets = {subject: [order[:step] for step in steps] for subject, (order, _) in orders.items()}
    like = orders[SIGNATURE][0]
    sets[RANDOM] = [one for step in steps for one in matcher.draw(like[:step], n_random, rng)]
    positive, whole, found = fold.positive[fold.test], fold.whole()[:, None], {}
    for subject, members in sets.items():
        part = fold.part(members)
        found[subject, "insertion"] = Pairs.of(part, positive, donors)
        found[subject, "deletion"] = Pairs.of(whole - part, positive, donors)
    return found


def curve_table(
    curves: Mapping[tuple[str, str], Pairs], steps: list[int], reader: str
) -> pd.DataFrame:
    """``reader``, ``subject``, ``direction``, number of genes ``k``, and ``value``.

    Of random sets the mean, ``low`` and ``high`` (90 %).
    """
    rows = []
    for (subject, direction), pairs in curves.items():
        for step, values in zip(steps, pairs.auroc().reshape(len(steps), -1), strict=True):
            ends = np.quantile(values, [0.05, 0.95]) if subject == RANDOM else (np.nan, np.nan)
            row = {"reader": reader, "subject": subject, "direction": direction, "k": step}
            mean = values.mean()
            rows.append(
                row
                | {
                    "value": mean,
                    "low": np.minimum(ends[0], mean),
                    "high": np.maximum(ends[1], mean),
                }
            )
    return pd.DataFrame(rows).rename(index=str)
