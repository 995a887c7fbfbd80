"""Share of positive cells per donor, observed and predicted, and calibration of probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, spearmanr

from scbert_cll._evaluation.metrics import score
from scbert_cll._evaluation.ranks import N_BINS, equal_mass_bins

_FEWEST_DONORS = 3  # below, a rank correlation is 1 or -1 whatever the data


def by_donor(
    y: np.ndarray,
    donors: np.ndarray | None,
    proba: Mapping[str, np.ndarray],
    classes: Sequence[str],
    positive_from: float = 30.0,
) -> pd.DataFrame:
    """Observed and predicted percentage of cells of the last class per model and donor, and calls.

    `observed_low` and `observed_high` are Wilson's 95 % limits; `predicted_low` and
    `predicted_high` the lowest and highest repeat. A repeat that lacks a prediction of a donor's
    cell is left out of that donor, and the note says so.
    """
    names = [] if donors is None else sorted(set(donors))
    rows = [
        {"model": model, "donor": str(donor)} | _donor(y[at], p[:, at], classes, positive_from)
        for model, p in proba.items()
        for donor in names
        for at in [np.flatnonzero(donors == donor)]
    ]
    return table(rows, _DONORS)


def _donor(
    y: np.ndarray, proba: np.ndarray, classes: Sequence[str], positive_from: float
) -> dict[str, object]:
    last, n = len(classes) - 1, len(y)
    whole = complete(proba)
    called = whole.argmax(2)  # (repeats, cells)
    share = 100 * (called == last).mean(1) if len(whole) else np.array([np.nan])
    aurocs = [score("auroc", y, p, classes) for p in whole]
    notes = [f"AUROC: {one.note}" for one in aurocs[:1] if one.note]
    if missing := len(proba) - len(whole):
        notes += [f"{missing} of {len(proba)} repeats without predictions of all cells"]
    n_positive = int((y == last).sum())
    low, high = interval(n_positive, n, "wilson")
    observed = 100 * n_positive / n
    return {
        "n_cells": n,
        "n_positive": n_positive,
        "observed": observed,
        # a mean of equal numbers may be off by a rounding
        "predicted": np.clip(share.mean(), share.min(), share.max()),
        "observed_low": 100 * low,
        "observed_high": 100 * high,
        "predicted_low": share.min(),
        "predicted_high": share.max(),
        "observed_call": observed >= positive_from,
        "predicted_call": bool(share.mean() >= positive_from),
        "accuracy": (called == y).mean() if len(whole) else np.nan,
        "auroc": np.mean([one.value for one in aurocs]) if aurocs else np.nan,
        "note": "; ".join(notes),
    }


def agreement(donors: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Number of donors whose predicted call is the observed one, and errors (from `by_donor`)."""
    rows = [{"model": m} | _agreement(donors[donors["model"] == m]) for m in models]
    return table(rows, _AGREEMENT)


def _agreement(donors: pd.DataFrame) -> dict[str, object]:
    """Clopper and Pearson's limits of the share of donors, independent where cells are not."""
    donors = donors[donors["predicted"].notna()]
    observed, predicted = donors["observed"], donors["predicted"]
    agrees = donors["observed_call"] == donors["predicted_call"]
    n, agree = len(donors), int(agrees.sum())
    low, high = interval(agree, n, "exact")
    reason = ""
    if n < _FEWEST_DONORS:
        fewer = f"{n} donor{'s' * (n > 1)}, fewer than {_FEWEST_DONORS}"
        reason = fewer if n else "no donors"
    elif flat := [side.name for side in (observed, predicted) if side.nunique() == 1]:
        reason = f"every donor has the same {flat[0]} percentage"
    rho = np.nan if reason else float(spearmanr(observed, predicted).statistic)
    return {
        "n_donors": n,
        "n_agree": agree,
        "share": agree / n if n else np.nan,
        "low": low,
        "high": high,
        "spearman": rho,
        "mae": (observed - predicted).abs().mean(),
        "note": reason and f"Spearman: {reason}",
    }


def reliability(
    y: np.ndarray, proba: Mapping[str, np.ndarray], *, n_bins: int = N_BINS
) -> pd.DataFrame:
    """Observed share of the last class by its predicted probability, in bins of equal mass.

    The predictions of all repeats are pooled, since their mean would be the calibration of another
    model, an ensemble. Each cell counts once in `n_cells` and in Wilson's limits, however many
    repeats there are. The limits treat the cells of a bin as independent, which cells of one donor
    are not: they show how few cells a bin has, no more.
    """
    rows = [
        {"model": model, **row}
        for model, p in proba.items()
        for row in _bins(y, complete(p), n_bins)
    ]
    return table(rows, _RELIABILITY)


def _bins(y: np.ndarray, proba: np.ndarray, n_bins: int) -> list[dict[str, float]]:
    if not proba.size:
        return []
    predicted = proba[:, :, -1].ravel()
    right = np.tile(y == proba.shape[2] - 1, len(proba))
    bins = equal_mass_bins(predicted, n_bins)
    rows: list[dict[str, float]] = []
    for number, code in enumerate(np.unique(bins)):
        in_bin = bins == code
        share, n = right[in_bin].mean(), max(round(in_bin.sum() / len(proba)), 1)
        low, high = interval(round(share * n), n, "wilson")
        row = {"bin": number, "n_cells": n, "low": low, "high": high}
        rows.append({**row, "predicted": predicted[in_bin].mean(), "observed": share})
    return rows


def complete(proba: np.ndarray) -> np.ndarray:
    """The repeats in which every cell has a prediction."""
    return np.asarray(proba[~np.isnan(proba).any(axis=(1, 2))])


def interval(n_hits: int, n: int, method: str) -> tuple[float, float]:
    """95 % limits of a share: "wilson", or "exact" for Clopper and Pearson's."""
    if not n:
        return np.nan, np.nan
    limits = binomtest(n_hits, n).proportion_ci(confidence_level=0.95, method=method)
    return float(limits.low), float(limits.high)


def table(rows: Sequence[Mapping[str, object]], columns: str) -> pd.DataFrame:
    """A table with these columns, of the same types also without rows, that h5ad can hold."""
    names = columns.split()
    types = {name: _TYPES.get(name, "float64") for name in names}
    made = pd.DataFrame(list(rows), columns=names).astype(types)
    return made.set_axis(made.index.astype(str))


_DONORS = (
    "model donor n_cells n_positive observed predicted observed_low observed_high predicted_low "
    "predicted_high observed_call predicted_call accuracy auroc note"
)
_AGREEMENT = "model n_donors n_agree share low high spearman mae note"
_RELIABILITY = "model bin n_cells predicted observed low high"
_KINDS = {  # of columns of any table of an evaluation; the others are real numbers
    "object": "model donor metric class reference interval note",
    "int64": "n_cells n_positive n_donors n_agree n_repeats n_undefined repeat bin",
    "bool": "observed_call predicted_call",
}
_TYPES = {name: kind for kind, names in _KINDS.items() for name in names.split()}
