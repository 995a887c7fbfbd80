"""The share of positive cells of a donor, as predicted, and how far the truth may be from it."""

from __future__ import annotations

from typing import Any, Final

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


def limits(at: float, predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """95 % prediction interval of a share (0 to 1) from its predicted log odds, and predicted and measured ones of other donors.

    With few donors the prediction is taken as it is, so that a common error makes the interval
    wide; with more, the truth is read off their regression line. Missing if that line does not
    rise.
    """
    n, mean = len(predicted), predicted.mean()
    if n < FOR_A_LINE:
        centre, errors, lost, leverage = at, measured - predicted, 1, 0.0
    else:
        around = ((predicted - mean) ** 2).sum()
        slope = ((predicted - mean) * measured).sum() / around if around > 0 else 0.0
        if slope <= 0:
            return np.nan, np.nan
        errors, lost = measured - measured.mean() - slope * (predicted - mean), 2
        centre, leverage = measured.mean() + slope * (at - mean), (at - mean) ** 2 / around
    spread = np.sqrt((errors**2).sum() / (n - lost))
    reach = t.ppf(0.975, n - lost) * spread * np.sqrt(1 + 1 / n + leverage)
    low, high = expit(centre + np.array([-reach, reach]))
    return float(low), float(high)


def calibration(donors: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Donors whose truth is known and that the model did not learn from: their log odds.

    `donors` has pct_measured, n_measured, pct_predicted, n_predicted and in_training.
    """
    enough = (donors["n_measured"] >= min_cells) & (donors["n_predicted"] >= min_cells)
    known = donors[enough & ~donors["in_training"] & donors["pct_measured"].notna()]
    measured, predicted = (_of_donors(known, kind) for kind in ("measured", "predicted"))
    table = {"donor": known.index.astype(str), "measured": measured, "predicted": predicted}
    return pd.DataFrame(table).rename(index=str)


def intervals(donors: pd.DataFrame, known: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Interval of each donor in percent, from the other donors of `known`.

    Where there is none, why.

    It speaks of the truth, which may be away to one side of what is predicted; then it is widened
    to the prediction.
    """
    rows = []
    for (name, donor), at in zip(donors.iterrows(), _of_donors(donors, "predicted"), strict=True):
        others = known[known["donor"] != str(name)]
        note, low, high = _reason(donor, len(others), min_cells), np.nan, np.nan
        if not note:
            low, high = limits(
                float(at), others["predicted"].to_numpy(), others["measured"].to_numpy()
            )
            note = _NOT_RISING if np.isnan(low) else ""
        predicted = donor["pct_predicted"]
        sides = {
            "pct_predicted_low": np.minimum(100 * low, predicted),
            "pct_predicted_high": np.maximum(100 * high, predicted),
        }
        rows.append(sides | {"note": note})
    return pd.DataFrame(rows, donors.index)


def _of_donors(donors: pd.DataFrame, kind: str) -> np.ndarray:
    share, n = (
        donors[f"pct_{kind}"].to_numpy(np.float64) / 100,
        donors[f"n_{kind}"].to_numpy(np.float64),
    )
    return log_odds(share, n)


def _reason(donor: pd.Series, n_known: int, min_cells: int) -> str:
    """Why a donor gets no interval; nothing where it gets one."""
    if donor["n_predicted"] == 0:
        return "no cell with a prediction"
    if donor["in_training"]:
        return _IN_SAMPLE
    if donor["n_predicted"] < min_cells:
        return (
            f"{int(donor['n_predicted'])} cells with a prediction, fewer than {min_cells}: no "
            f"interval"
        )
    if n_known < FEWEST:
        return (
            f"{n_known} other donors with a known truth that the model did not learn from, fewer "
            f"than {FEWEST}: no interval"
        )
    return ""


def call(found: pd.DataFrame, positive_from: float) -> Any:
    """Negative or positive where the whole interval is.

    Missing where it spans the limit, or is missing.
    """
    codes = np.select(
        [found["pct_predicted_low"] >= positive_from, found["pct_predicted_high"] < positive_from],
        [1, 0],
        -1,
    )
    return pd.Categorical.from_codes(codes, pd.Index(["negative", "positive"]), ordered=True)
