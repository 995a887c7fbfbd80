"""How certain metrics are: the donor is the unit, its cells are repeats of one patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._checks.words import choice, listed
from scbert_cll._evaluation import bootstrap
from scbert_cll._evaluation import donors as per_donor
from scbert_cll._evaluation import metrics as _metrics
from scbert_cll._evaluation.bootstrap import Limits, interval_of, joined, of_draws
from scbert_cll._evaluation.metrics import METRICS, OF_RANKS

_SAME = 1e-6  # probabilities that are the same but for single precision
_FLAT = "the model says the same of every cell of a fold: cells are tied, and folds are not ranked"
_SIDES = {"precision": "no cell is called this class", "recall": "no cell is of this class"}


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of labelled cells by models that saw neither them nor, best, their donors."""

    classes: list[str]
    ordered: bool
    y: np.ndarray  # (n,) codes
    donors: np.ndarray | None  # (n,) names
    # model -> (repeats, n, classes); NaN where a repeat has no prediction
    proba: Mapping[str, np.ndarray]
    baselines: Sequence[str]
    # (repeats, n) codes: cells of the same one were scored by the same fitted model
    folds: np.ndarray | None = None

    def __post_init__(self) -> None:
        n_repeats = len(next(iter(self.proba.values()), ()))
        shape = (n_repeats, len(self.y), len(self.classes))
        size = f"{shape[0]} repeats × {shape[1]} cells"
        wrong = [model for model, p in self.proba.items() if p.shape != shape]
        if wrong or 0 in shape:
            raise ValueError(
                f"Expected probabilities of {size} × {shape[2]} classes of every model, none of "
                f"them 0; found others in {listed(wrong)}."
            )
        sums = {m: np.nan_to_num(p.sum(2), nan=1) for m, p in self.proba.items()}
        far = [m for m, one in sums.items() if (np.abs(one - 1) > 1e-3).any()]
        n_classes, y, n = len(self.classes), self.y, len(self.y)
        n_donors = shape[1] if self.donors is None else len(self.donors)
        folds = shape[:2] if self.folds is None else self.folds.shape
        unknown = sorted(set(self.baselines) - set(self.proba))
        codes = f"at least two classes ({listed(self.classes)})"
        donors = f"donors must name the donor of each of {n} cells; found {n_donors}."
        problems = {
            f"Probabilities of a cell must sum to 1; not so in {listed(far)}.": far,
            f"y must hold codes of {codes}, none missing.": (
                n_classes < 2 or y.min() < 0 or y.max() >= n_classes
            ),
            donors: n_donors != shape[1],
            f"folds must name the fold of {size}; found {folds}.": folds != shape[:2],
            f"Baselines without predictions: {listed(unknown)}.": unknown,
        }
        for problem, is_there in problems.items():
            if is_there:
                raise ValueError(problem)

    def exact(self) -> dict[str, np.ndarray]:
        """Probabilities in double precision whose rows sum to 1."""
        double = {model: np.asarray(p, dtype=float) for model, p in self.proba.items()}
        return {model: p / p.sum(2, keepdims=True) for model, p in double.items()}

    def is_flat(self, proba: np.ndarray) -> bool:
        """Whether a model says the same of every cell that it scored.

        Pooled over folds it would rank folds, and no cell.
        """
        return self.folds is not None and all(
            np.ptp(one[fold == code], axis=0).max() < _SAME
            for one, fold in zip(proba, self.folds, strict=True)
            for code in np.unique(fold)
        )


class Evaluation(NamedTuple):
    """Tables by name, and what the intervals resample: "donor" or "cell", and their number."""

    tables: dict[str, pd.DataFrame]
    unit: str
    n_units: int


def tables(
    predictions: OutOfFold,
    metrics: Sequence[str] = METRICS,
    n_bootstrap: int = 2000,
    positive_from: float = 30.0,
    seed: int = 0,
) -> Evaluation:
    """Scores, their uncertainty, differences from the best baseline, and predictions by donor.

    Parameters
    ----------
    predictions
        Out-of-fold predictions.
    metrics
        Names out of `metrics.METRICS`.
    n_bootstrap
        Draws. Each takes as many donors as there are, with replacement, and as many repeats, with
        replacement, and averages the metric over the drawn repeats. All models see the same draws,
        so differences are paired.
    positive_from
        Percentage of cells from which on a donor is positive.
    seed
        Of the draws.

    Returns
    -------
    Tables ``scores``, ``summary``, ``differences``, ``per_class``, ``donors``, ``agreement`` and
    ``reliability``, the unit and the number of units.

    Notes
    -----
    With 5 donors or more: bootstrap over donors, see `limits`, and `limits_at_an_end` near a
    perfect value. With 2 to 4 a bootstrap means nothing, and the limits are the lowest and highest
    value of single donors. With one donor or none cells are drawn, stratified by class, which tells
    of other cells of this donor and not of other patients.

    The reference of a metric is the baseline with the best estimate on these same cells: a model is
    compared with a baseline that was picked for being good, so the differences err on the careful
    side.
    """
    for name in metrics:
        choice(name, METRICS, "A metric")
    study = _Study(predictions, metrics, n_bootstrap, seed)
    y, proba, drawn = predictions.y, study.proba, study.drawn
    donors, classes = predictions.donors, predictions.classes
    by_donor = per_donor.by_donor(y, donors, proba, classes, positive_from)
    scores = study.scores()
    summary = study.summary(scores)
    made = {
        "scores": scores,
        "summary": summary,
        "differences": study.differences(summary),
        "per_class": study.per_class(),
        "donors": by_donor,
        "agreement": per_donor.agreement(by_donor, list(proba)),
        "reliability": per_donor.reliability(y, proba),
    }
    unit = "cell" if drawn.interval == bootstrap.OVER_CELLS else "donor"
    return Evaluation(made, unit, drawn.n_units)


class _Study:
    """Predictions of several models with the same draws for all."""

    def __init__(self, data: OutOfFold, metrics: Sequence[str], n_draws: int, seed: int) -> None:
        y, proba = data.y, data.exact()
        n_repeats = len(next(iter(proba.values())))
        drawn = bootstrap.resample(y, data.donors, n_repeats, n_draws, seed)
        self.data, self.metrics, self.proba, self.drawn = data, metrics, proba, drawn
        codes = range(len(data.classes))
        names = [*metrics, *(f"{side}|{code}" for side in _SIDES for code in codes)]
        ranks = [name for name in metrics if name in OF_RANKS]
        # of a model that says the same of every cell of a fold, which are tied
        self.tied = {
            model: np.tile(p.mean((0, 1)), (*p.shape[:2], 1))
            for model, p in proba.items()
            if data.is_flat(p)
        }
        self.draws = {model: of_draws(names, y, p, drawn) for model, p in proba.items()}
        for model, p in self.tied.items() if ranks else ():
            self.draws[model] |= of_draws(ranks, y, p, drawn)

    def scores(self) -> pd.DataFrame:
        """Each metric of each repeat."""
        data, rows = self.data, []
        how = partial(_metrics.score, ordered=data.ordered, donors=data.donors)
        for model, repeats in self.proba.items():
            for (repeat, proba), name in product(enumerate(repeats), self.metrics):
                tied = name in OF_RANKS and model in self.tied
                shown = self.tied[model][repeat] if tied else proba
                value, note = how(name, data.y, shown, data.classes)
                note = joined(note, _FLAT if tied and np.isfinite(value) else "")
                row = {"model": model, "repeat": repeat, "metric": name}
                rows.append({**row, "value": value, "note": note})
        return per_donor.table(rows, _SCORES)

    def summary(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Estimate and interval of each metric over the repeats."""
        rows = []
        n_classes = len(self.data.classes)
        for (model, metric), part in _parts(scores, "model", "metric"):
            values = part["value"].dropna()
            estimate, draws = float(values.mean()), self.draws[model][metric]
            ends = _metrics.ends(metric, n_classes)
            limits = interval_of(estimate, draws, self.drawn, ends)
            notes, n_missing = joined(*part["note"]), len(part) - len(values)
            if 0 < n_missing < len(part):
                missing = f"undefined in {n_missing} of {len(part)}"
                notes = f"mean over the defined repeats; {missing}: {notes}"
            row = {"model": model, "metric": metric, "estimate": estimate}
            row |= {"sd_repeats": values.std(ddof=1), "n_repeats": len(part)}
            row |= limits._asdict()
            row["chance"] = _metrics.chance(metric, self.data.y, n_classes)
            rows.append(row | {"note": joined(notes, *self._notes(limits))})
        return per_donor.table(rows, _SUMMARY)

    def _notes(self, limits: Limits) -> tuple[str, str]:
        """What is to be known of an interval, if there is one."""
        about = "" if limits.interval == bootstrap.NONE else self.drawn.note
        return about, limits.note

    def differences(self, summary: pd.DataFrame) -> pd.DataFrame:
        """Every model but the best baseline, minus the best baseline."""
        rows = []
        for (metric,), part in _parts(summary, "metric"):
            values = part.set_index("model")["estimate"]
            sign = -1 if metric in _metrics.LOWER_IS_BETTER else 1
            of_baselines = sign * values[list(self.data.baselines)].dropna()
            best = str(of_baselines.idxmax()) if len(of_baselines) else ""
            for model in part["model"] if self.data.baselines else ():
                if model == best:
                    continue
                row = {"metric": metric, "model": model, "reference": best}
                if not best or np.isnan(values[model]):
                    whose = "the model" if best else "every baseline"
                    rows.append(row | {"note": f"{metric} of {whose} is undefined"})
                    continue
                difference = float(values[model] - values[best])
                draws = self.draws[model][metric] - self.draws[best][metric]
                limits = interval_of(difference, draws, self.drawn, None)
                row |= {"difference": difference} | limits._asdict()
                rows.append(row | {"note": joined(*self._notes(limits))})
        return per_donor.table(rows, _DIFFERENCES)

    def per_class(self) -> pd.DataFrame:
        """Precision and recall of each class."""
        y, rows = self.data.y, []
        for model, repeats in self.proba.items():
            complete = per_donor.complete(repeats)
            for code, name in enumerate(self.data.classes):
                n = int((y == code).sum())
                row: dict[str, object] = {"model": model, "class": name, "n_cells": n}
                row |= {"prevalence": n / len(y)}
                notes: list[str] = []
                for side, why in _SIDES.items():
                    metric = f"{side}|{code}"
                    each = [_metrics.estimates([metric], y, p)[0] for p in complete]
                    values = pd.Series(each, dtype=np.float64).dropna()
                    mean, n_missing = float(values.mean()), len(each) - len(values)
                    draws = self.draws[model][metric]
                    limits = interval_of(mean, draws, self.drawn, (0, 1))
                    row[side] = mean
                    row[f"{side}_low"], row[f"{side}_high"] = limits.low, limits.high
                    missing = f"{side} undefined in {n_missing} of {len(each)} repeats: {why}"
                    about, undefined = self._notes(limits)
                    notes += [about, missing if n_missing else ""]
                    notes += [f"{side} {undefined}" if undefined else ""]
                rows.append(row | {"note": joined(*notes)})
        return per_donor.table(rows, _PER_CLASS)


def _parts(table: pd.DataFrame, *by: str) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows by these columns, in the order in which they come."""
    groups = table.groupby(list(by), sort=False)
    return [(tuple(map(str, key)), part) for key, part in groups]


_SCORES = "model repeat metric value note"
_SUMMARY = "model metric estimate low high interval sd_repeats n_repeats n_undefined chance note"
_DIFFERENCES = "metric model reference difference low high p note"
_PER_CLASS = (
    "model class n_cells prevalence precision recall precision_low precision_high recall_low "
    "recall_high note"
)
