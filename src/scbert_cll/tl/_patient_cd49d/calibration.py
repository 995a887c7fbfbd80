"""Prediction interval of a donor's share of positive cells, from other donors' errors."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import t

FEWEST: Final = 4  # donors with a known truth that a prediction interval needs
FOR_A_LINE: Final = 6  # of them, before the truth is read off a line through them
_IN_SAMPLE: Final = "predicted by a model that learned from this donor: no interval"
_NOT_RISING: Final = (
    "in the other donors the predicted share does not rise with the measured one: no interval"
)


def log_odds(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Log odds of a share of n cells; half a cell more on either side keeps 0 and 1 finite."""
    return np.asarray(np.log((share * n + 0.5) / ((1 - share) * n + 0.5)))


def limits(at: float, predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """95 % prediction interval of a share (0 to 1) from log odds: its own and other donors'.

    With few donors the prediction is taken as it is, so that a common error makes the interval
    wide; with more, the truth is read off their regression line. Missing if that line does not
    rise.
    """
    n, mean = len(predicted), predicted.mean()
    centre, errors, n_lost, leverage = at, measured - predicted, 1, 0.0
    if n >= FOR_A_LINE:
        around = ((predicted - mean) ** 2).sum()
        slope = ((predicted - mean) * measured).sum() / around if around > 0 else 0.0
        if slope <= 0:
            return np.full(2, np.nan)
        errors, n_lost = measured - measured.mean() - slope * (predicted - mean), 2
        centre = measured.mean() + slope * (at - mean)
        leverage = (at - mean) ** 2 / around
    spread = np.sqrt((errors**2).sum() / (n - n_lost))
    reach = t.ppf(0.975, n - n_lost) * spread * np.sqrt(1 + 1 / n + leverage)
    return np.asarray(expit(centre + np.array([-reach, reach])))


def others(donors: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Donors whose truth is known and that the model did not learn from: their log odds.

    `donors` has pct_measured, n_measured, pct_predicted, n_predicted and in_training.
    """
    enough = (donors["n_measured"] >= min_cells) & (donors["n_predicted"] >= min_cells)
    usable = donors[enough & ~donors["in_training"] & donors["pct_measured"].notna()]
    odds = {kind: _of_donors(usable, kind) for kind in ("measured", "predicted")}
    return pd.DataFrame({"donor": usable.index.astype(str), **odds}).rename(index=str)


def intervals(donors: pd.DataFrame, others: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Interval of each donor in percent, from the `others` without itself, or why there is none.

    It speaks of the truth, which may be away to one side of the prediction; then it is widened to
    the prediction.
    """
    rows = []
    odds_of = _of_donors(donors, "predicted")
    for (name, donor), at in zip(donors.iterrows(), odds_of, strict=True):
        rest = others[others["donor"] != str(name)]
        note, low, high = _reason(donor, len(rest), min_cells), np.nan, np.nan
        if not note:
            odds = (rest[kind].to_numpy() for kind in ("predicted", "measured"))
            low, high = limits(float(at), *odds)
            note = _NOT_RISING if np.isnan(low) else ""
        predicted = donor["pct_predicted"]
        low, high = np.minimum(100 * low, predicted), np.maximum(100 * high, predicted)
        rows.append((low, high, note))
    columns = ["pct_predicted_low", "pct_predicted_high", "note"]
    return pd.DataFrame(rows, donors.index, columns)


def _of_donors(donors: pd.DataFrame, kind: str) -> np.ndarray:
    share, n = (donors[f"{name}_{kind}"].to_numpy(float) for name in ("pct", "n"))
    return log_odds(share / 100, n)


def _reason(donor: pd.Series, n_others: int, min_cells: int) -> str:
    """Why a donor gets no interval; nothing where it gets one."""
    n = int(donor["n_predicted"])
    if not n:
        return "no cell with a prediction"
    if donor["in_training"]:
        return _IN_SAMPLE
    if n < min_cells:
        return f"{n} cells with a prediction, fewer than {min_cells}: no interval"
    if n_others < FEWEST:
        what = "other donors with a known truth that the model did not learn from"
        return f"{n_others} {what}, fewer than {FEWEST}: no interval"
    return ""


def call(donors: pd.DataFrame, positive_from: float) -> pd.Categorical[str]:
    """Negative or positive where the whole interval is.

    Missing where it spans the limit, or is missing.
    """
    low, high = donors["pct_predicted_low"], donors["pct_predicted_high"]
    codes = np.select([low >= positive_from, high < positive_from], [1, 0], -1)
    words = pd.Index(["negative", "positive"])
    return pd.Categorical.from_codes(codes, words, ordered=True)
