"""How certain metrics are: the donor is the unit, its cells are repeats of one patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from scbert_cll._checks.words import choice, listed
from scbert_cll._evaluation import donors as _donors
from scbert_cll._evaluation.draws import (
    NONE,
    OVER_CELLS,
    Limits,
    Plan,
    draw,
    interval_of,
    plan_draws,
)
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER, METRICS, OF_RANKS, chance, ends, score

_SAME = 1e-6  # probabilities that are the same but for single precision
_FLAT = "the model says the same of every cell of a fold: cells are tied, and folds are not ranked"


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of labelled cells by models that did not see them, nor (it is hoped) their donors."""

    classes: list[str]
    ordered: bool
    y: np.ndarray  # (n,) codes
    donors: np.ndarray | None  # (n,) names
    proba: Mapping[
        str, np.ndarray
    ]  # model -> (repeats, n, classes); NaN where a repeat has no prediction
    baselines: Sequence[str]
    folds: np.ndarray | None = (
        None  # (repeats, n) codes: cells of the same one were scored by the same fitted model
    )

    def __post_init__(self) -> None:
        shape = (len(next(iter(self.proba.values()), ())), len(self.y), len(self.classes))
        wrong = [model for model, found in self.proba.items() if found.shape != shape]
        if wrong or 0 in shape:
            raise ValueError(
                f"Expected probabilities of {shape[0]} repeats × {shape[1]} cells × "
                f"{shape[2]} classes of every model, none of "
                f"them 0; found others in {listed(wrong)}."
            )
        far = [
            m
            for m, found in self.proba.items()
            if (np.abs(np.nan_to_num(found.sum(2), nan=1) - 1) > 1e-3).any()
        ]
        if far:
            raise ValueError(
                f"Probabilities of a cell must sum to 1; they do not in {listed(far)}."
            )
        if len(self.classes) < 2 or self.y.min() < 0 or self.y.max() >= len(self.classes):
            raise ValueError(
                f"y must hold codes of at least two classes ({listed(self.classes)}), none missing."
            )
        if self.donors is not None and len(self.donors) != len(self.y):
            raise ValueError(
                f"donors must name the donor of each of {len(self.y)} cells; found "
                f"{len(self.donors)}."
            )
        if self.folds is not None and self.folds.shape != shape[:2]:
            raise ValueError(
                f"folds must name the fold of {shape[0]} repeats × {shape[1]} cells; found "
                f"{self.folds.shape}."
            )
        unknown = sorted(set(self.baselines) - set(self.proba))
        if unknown:
            raise ValueError(f"Baselines without predictions: {listed(unknown)}.")

    def exact(self) -> dict[str, np.ndarray]:
        """Probabilities in double precision whose rows sum to 1."""
        double = {model: np.asarray(found, dtype=float) for model, found in self.proba.items()}
        return {model: found / found.sum(2, keepdims=True) for model, found in double.items()}

    def flat(self, proba: np.ndarray) -> bool:
        """Whether a model says the same of every cell that it scored, so that pooled over folds it would rank folds, and no cell."""
        return self.folds is not None and all(
            np.ptp(one[fold == code], axis=0).max() < _SAME
            for one, fold in zip(proba, self.folds, strict=True)
            for code in np.unique(fold)
        )


class Evaluation(NamedTuple):
    """Tables by name, and what the intervals resample: "donor" or "cell", and how many there are."""

    tables: dict[str, pd.DataFrame]
    unit: str
    n_units: int


def tables(
    found: OutOfFold,
    *,
    metrics: Sequence[str] = METRICS,
    n_bootstrap: int = 2000,
    positive_from: float = 30.0,
    seed: int = 0,
) -> Evaluation:
    """Scores, their uncertainty, differences from the best baseline, and what is predicted for each donor.

    Parameters
    ----------
    found
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
    proba = found.exact()
    ranked = {
        m: np.tile(p.mean((0, 1)), (*p.shape[:2], 1)) if found.flat(p) else p
        for m, p in proba.items()
    }
    plan = plan_draws(found.y, found.donors, len(next(iter(proba.values()))), n_bootstrap, seed)
    names = [
        *metrics,
        *(
            f"{side}|{code}"
            for side in ("precision", "recall")
            for code in range(len(found.classes))
        ),
    ]
    draws = {
        model: dict(zip(names, draw(names, found.y, p, plan), strict=True))
        for model, p in proba.items()
    }
    ranks = [name for name in metrics if name in OF_RANKS]
    for model in [m for m in proba if ranks and ranked[m] is not proba[m]]:
        draws[model] |= dict(zip(ranks, draw(ranks, found.y, ranked[model], plan), strict=True))
    scores = _scores(found, proba, ranked, metrics)
    summary = _summary(found, scores, draws, plan)
    by_donor = _donors.by_donor(
        found.y, found.donors, proba, found.classes, positive_from=positive_from
    )
    made = {
        "scores": scores,
        "summary": summary,
        "differences": _differences(found, summary, draws, plan),
        "per_class": _per_class(found, proba, draws, plan),
        "donors": by_donor,
        "agreement": _donors.agreement(by_donor, list(proba)),
        "reliability": _donors.reliability(found.y, proba),
    }
    return Evaluation(made, "cell" if plan.interval == OVER_CELLS else "donor", plan.n_units)


def _scores(
    found: OutOfFold,
    proba: Mapping[str, np.ndarray],
    ranked: Mapping[str, np.ndarray],
    metrics: Sequence[str],
) -> pd.DataFrame:
    how: dict[str, Any] = {"ordered": found.ordered, "donors": found.donors}
    rows = []
    for model, repeats in proba.items():
        for repeat, one in enumerate(repeats):
            for name in metrics:
                flat = name in OF_RANKS and ranked[model] is not proba[model]
                value, note = score(
                    name, found.y, ranked[model][repeat] if flat else one, found.classes, **how
                )
                note = _joined(note, _FLAT if flat and np.isfinite(value) else "")
                rows.append(
                    {"model": model, "repeat": repeat, "metric": name, "value": value, "note": note}
                )
    return _donors.table(rows, _SCORES)


def _summary(
    found: OutOfFold,
    scores: pd.DataFrame,
    draws: Mapping[str, Mapping[str, np.ndarray]],
    plan: Plan,
) -> pd.DataFrame:
    rows = []
    for (model, metric), part in _parts(scores, "model", "metric"):
        values = part["value"].dropna()
        estimate = float(values.mean())
        interval = interval_of(
            estimate, draws[model][metric], plan, ends(metric, len(found.classes))
        )
        rows.append(
            {
                "model": model,
                "metric": metric,
                "estimate": estimate,
                "sd_repeats": values.std(ddof=1),
            }
            | interval._asdict()
            | {"n_repeats": len(part), "chance": chance(metric, found.y, len(found.classes))}
            | {"note": _joined(_over_repeats(part), *_said(interval, plan))}
        )
    return _donors.table(rows, _SUMMARY)


def _parts(found: pd.DataFrame, *by: str) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows by these columns, in the order in which they come."""
    return [(tuple(map(str, key)), part) for key, part in found.groupby(list(by), sort=False)]


def _over_repeats(part: pd.DataFrame) -> str:
    """What the repeats' notes say; how many repeats have no value, if some have one."""
    notes = _joined(*part["note"])
    n = int(part["value"].isna().sum())
    return (
        f"mean over the defined repeats; undefined in {n} of {len(part)}: {notes}"
        if 0 < n < len(part)
        else notes
    )


def _said(interval: Limits, plan: Plan) -> tuple[str, str]:
    """What is to be known of an interval, if there is one."""
    return ("" if interval.interval == NONE else plan.note), interval.note


def _joined(*notes: str) -> str:
    """Each note once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _differences(
    found: OutOfFold,
    summary: pd.DataFrame,
    draws: Mapping[str, Mapping[str, np.ndarray]],
    plan: Plan,
) -> pd.DataFrame:
    """Every model but the best baseline, minus the best baseline."""
    rows = []
    for (metric,), part in _parts(summary, "metric"):
        estimates = part.set_index("model")["estimate"]
        of_baselines = estimates[list(found.baselines)].dropna() * (
            -1 if metric in LOWER_IS_BETTER else 1
        )
        reference = str(of_baselines.idxmax()) if len(of_baselines) else ""
        for model in [m for m in part["model"] if m != reference and found.baselines]:
            row = {"metric": metric, "model": model, "reference": reference}
            rows.append(row | _difference(estimates, model, reference, metric, draws, plan))
    return _donors.table(rows, _DIFFERENCES)


def _difference(
    estimates: pd.Series,
    model: str,
    reference: str,
    metric: str,
    draws: Mapping[str, Mapping[str, np.ndarray]],
    plan: Plan,
) -> dict[str, object]:
    if not reference or np.isnan(estimates[model]):
        note = f"{metric} of {'every baseline' if not reference else 'the model'} is undefined"
        return {"difference": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "note": note}
    difference = float(estimates[model] - estimates[reference])
    interval = interval_of(difference, draws[model][metric] - draws[reference][metric], plan, None)
    return {"difference": difference, **interval._asdict(), "note": _joined(*_said(interval, plan))}


def _per_class(
    found: OutOfFold,
    proba: Mapping[str, np.ndarray],
    draws: Mapping[str, Mapping[str, np.ndarray]],
    plan: Plan,
) -> pd.DataFrame:
    rows = []
    for model, repeats in proba.items():
        sides = [_precision_recall(found.y, one) for one in _donors.complete(repeats)]
        for code, name in enumerate(found.classes):
            n = int((found.y == code).sum())
            row: dict[str, object] = {
                "model": model,
                "class": name,
                "n_cells": n,
                "prevalence": n / len(found.y),
            }
            notes = []
            for place, side in enumerate(("precision", "recall")):
                values = pd.Series([s[place][code] for s in sides], dtype=float)
                interval = interval_of(
                    float(values.mean()), draws[model][f"{side}|{code}"], plan, (0, 1)
                )
                row |= {
                    side: values.mean(),
                    f"{side}_low": interval.low,
                    f"{side}_high": interval.high,
                }
                about, gone = _said(interval, plan)
                notes += [about, _of_class(side, values), gone and f"{side} {gone}"]
            rows.append(row | {"note": _joined(*notes)})
    return _donors.table(rows, _PER_CLASS)


def _precision_recall(y: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of each class; NaN where no cell is called so, or is so."""
    codes = np.arange(proba.shape[1])
    precision, recall, _, _ = precision_recall_fscore_support(
        y, proba.argmax(1), labels=codes, zero_division=np.nan
    )
    return precision, recall


def _of_class(side: str, values: pd.Series) -> str:
    n = int(values.isna().sum())
    why = "no cell is called this class" if side == "precision" else "no cell is of this class"
    return f"{side} undefined in {n} of {len(values)} repeats: {why}" if n else ""


_SCORES = _donors.columns(whole="repeat", real="value", order="model repeat metric value note")
_SUMMARY = _donors.columns(
    whole="n_repeats n_undefined",
    real="estimate low high sd_repeats chance",
    order="model metric estimate low high interval sd_repeats n_repeats n_undefined chance note",
)
_DIFFERENCES = _donors.columns(
    real="difference low high p", order="metric model reference difference low high p note"
)
_PER_CLASS = _donors.columns(
    whole="n_cells",
    real="prevalence precision recall precision_low precision_high recall_low recall_high",
    order="model class n_cells prevalence precision recall precision_low precision_high recall_low "
    "recall_high note",
)
