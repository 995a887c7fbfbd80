"""What predictions say of patients: the share of positive cells per donor, and how well probabilities match shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, spearmanr

from scbert_cll._evaluation.metrics import N_BINS, equal_mass_bins, score

_FEWEST_DONORS = 3  # below, a rank correlation is 1 or -1 whatever the data


def by_donor(
    y: np.ndarray,
    donors: np.ndarray | None,
    proba: Mapping[str, np.ndarray],
    classes: Sequence[str],
    *,
    positive_from: float = 30.0,
) -> pd.DataFrame:
    """Observed and predicted percentage of cells of the last class per model and donor, and the call by the 30 % rule.

    `observed_low` and `observed_high` are Wilson's 95 % limits; `predicted_low` and
    `predicted_high` the lowest and highest repeat. A repeat that lacks a prediction of a donor's
    cell is left out of that donor, and the note says so.
    """
    names = [] if donors is None else sorted(set(donors))
    rows = [
        {"model": model, "donor": str(donor)} | _donor(y[at], found[:, at], classes, positive_from)
        for model, found in proba.items()
        for donor in names
        for at in [np.flatnonzero(donors == donor)]
    ]
    return table(rows, _DONOR_COLUMNS)


def _donor(
    y: np.ndarray, proba: np.ndarray, classes: Sequence[str], positive_from: float
) -> dict[str, object]:
    last, n = len(classes) - 1, len(y)
    whole = complete(proba)
    called = whole.argmax(2) == last  # (repeats, cells)
    share = 100 * called.mean(1) if len(whole) else np.array([np.nan])
    aurocs = [score("auroc", y, p, classes) for p in whole]
    n_positive = int((y == last).sum())
    low, high = interval(n_positive, n, "wilson")
    observed = 100 * n_positive / n
    notes = [aurocs[0].note and f"AUROC: {aurocs[0].note}"] if aurocs else []
    missing = len(proba) - len(whole)
    notes += (
        [f"{missing} of {len(proba)} repeats without predictions of all cells"] if missing else []
    )
    return {
        "n_cells": n,
        "n_positive": n_positive,
        "observed": observed,
        "predicted": np.clip(
            share.mean(), share.min(), share.max()
        ),  # a mean of equal numbers may be off by a rounding
        "observed_low": 100 * low,
        "observed_high": 100 * high,
        "predicted_low": share.min(),
        "predicted_high": share.max(),
        "observed_call": observed >= positive_from,
        "predicted_call": bool(share.mean() >= positive_from),
        "accuracy": (whole.argmax(2) == y).mean() if len(whole) else np.nan,
        "auroc": np.mean([a.value for a in aurocs]) if aurocs else np.nan,
        "note": "; ".join(note for note in notes if note),
    }


def agreement(found: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """In how many donors the predicted call is the observed one, and how close the percentages are (from `by_donor`)."""
    rows = [{"model": model} | _agreement(found[found["model"] == model]) for model in models]
    return table(rows, _AGREEMENT_COLUMNS)


def _agreement(found: pd.DataFrame) -> dict[str, object]:
    """Clopper and Pearson's limits of the share of donors, which are independent where cells are not."""
    found = found[found["predicted"].notna()]
    n, agree = len(found), int((found["observed_call"] == found["predicted_call"]).sum())
    low, high = interval(agree, n, "exact")
    reason = _no_correlation(found)
    return {
        "n_donors": n,
        "n_agree": agree,
        "share": agree / n if n else np.nan,
        "low": low,
        "high": high,
        "spearman": np.nan
        if reason
        else float(spearmanr(found["observed"], found["predicted"]).statistic),
        "mae": (found["observed"] - found["predicted"]).abs().mean(),
        "note": reason and f"Spearman: {reason}",
    }


def _no_correlation(found: pd.DataFrame) -> str:
    """Why percentages cannot be correlated; nothing where they can."""
    if len(found) < _FEWEST_DONORS:
        return (
            f"{len(found)} donor{'s' * (len(found) > 1)}, fewer than {_FEWEST_DONORS}"
            if len(found)
            else "no donors"
        )
    same = [side for side in ("observed", "predicted") if found[side].nunique() == 1]
    return f"every donor has the same {same[0]} percentage" if same else ""


def reliability(
    y: np.ndarray, proba: Mapping[str, np.ndarray], *, n_bins: int = N_BINS
) -> pd.DataFrame:
    """Observed share of the last class by its predicted probability, in bins of equally many predictions.

    The predictions of all repeats are pooled, since their mean would be the calibration of another
    model, an ensemble. Each cell counts once in `n_cells` and in Wilson's limits, however many
    repeats there are. The limits treat the cells of a bin as independent, which cells of one donor
    are not: they show how few cells a bin has, no more.
    """
    rows = [
        {"model": model} | row
        for model, found in proba.items()
        for row in _bins(y, complete(found), n_bins)
    ]
    return table(rows, _RELIABILITY_COLUMNS)


def _bins(y: np.ndarray, proba: np.ndarray, n_bins: int) -> list[dict[str, object]]:
    if not proba.size:
        return []
    sure, right = proba[:, :, -1].ravel(), np.tile(y == proba.shape[2] - 1, len(proba))
    bins = equal_mass_bins(sure, n_bins)
    rows: list[dict[str, object]] = []
    for number, code in enumerate(np.unique(bins)):
        here = bins == code
        share, n = right[here].mean(), max(round(here.sum() / len(proba)), 1)
        low, high = interval(round(share * n), n, "wilson")
        values = {
            "n_cells": n,
            "predicted": sure[here].mean(),
            "observed": share,
            "low": low,
            "high": high,
        }
        rows.append({"bin": number} | values)
    return rows


def complete(proba: np.ndarray) -> np.ndarray:
    """The repeats in which every cell has a prediction."""
    return np.asarray(proba[~np.isnan(proba).any(axis=(1, 2))])


def interval(n_found: int, n: int, method: str) -> tuple[float, float]:
    """95 % limits of a share: "wilson", or "exact" for Clopper and Pearson's."""
    if not n:
        return np.nan, np.nan
    found = binomtest(n_found, n).proportion_ci(confidence_level=0.95, method=method)
    return float(found.low), float(found.high)


def table(rows: Sequence[Mapping[str, object]], types: Mapping[str, str]) -> pd.DataFrame:
    """A table with these columns and types, also without rows, that h5ad can hold."""
    found = pd.DataFrame(list(rows), columns=list(types)).astype(dict(types))
    return found.set_axis(found.index.astype(str))


def columns(*, whole: str = "", real: str = "", truth: str = "", order: str) -> dict[str, str]:
    """Types of columns in their order; what is not named otherwise is text."""
    kinds = [(whole, "int64"), (real, "float64"), (truth, "bool")]
    types = {name: kind for names, kind in kinds for name in names.split()}
    return {name: types.get(name, "object") for name in order.split()}


_DONOR_COLUMNS = columns(
    whole="n_cells n_positive",
    real="observed predicted observed_low observed_high predicted_low predicted_high accuracy "
    "auroc",
    truth="observed_call predicted_call",
    order="model donor n_cells n_positive observed predicted observed_low observed_high "
    "predicted_low predicted_high "
    "observed_call predicted_call accuracy auroc note",
)
_AGREEMENT_COLUMNS = columns(
    whole="n_donors n_agree",
    real="share low high spearman mae",
    order="model n_donors n_agree share low high spearman mae note",
)
_RELIABILITY_COLUMNS = columns(
    whole="bin n_cells",
    real="predicted observed low high",
    order="model bin n_cells predicted observed low high",
)
