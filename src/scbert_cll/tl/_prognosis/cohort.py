"""What a prognosis is asked about: the choices, all samples, and those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._survival.models import design
from scbert_cll._survival.outcome import Flow, Outcome
from scbert_cll.tl._prognosis.bulk import Bulk

SCORE, CLINICAL, DIVISION, MARKER = "score", "clinical", "proliferation", "marker"
COMPLETE: Final = "score (complete cases)"
NOTHING: Final = "none"
LEVEL: Final = 0.05
SAME: Final = 0.999  # correlation, from which two columns cannot be told apart


@dataclass(frozen=True)
class Asked:
    """The choices of a user."""

    method: str
    marker: str | None
    proliferation: tuple[str, ...]
    min_events_per_variable: float
    expected_ratio: float
    times: tuple[float, ...]
    n_random: int
    n_bootstrap: int


@dataclass(frozen=True)
class Cohort:
    """All samples, and who of them is followed and scored."""

    outcome: Outcome
    flow: Flow
    score: pd.Series
    covariates: pd.DataFrame
    bulk: Bulk | None
    genes: pd.DataFrame
    place: np.ndarray  # of the signature's genes in `bulk`


@dataclass
class Patients:
    """Some of the samples, with the columns of the models."""

    outcome: Outcome
    score: pd.DataFrame  # one column
    clinical: pd.DataFrame  # numbers
    division: pd.DataFrame  # one column, or none

    @classmethod
    def of(
        cls, cohort: Cohort, rows: np.ndarray, division: np.ndarray | None, *, clinical: bool
    ) -> Patients:
        """The samples of `rows`, with or without covariates."""
        index = cohort.score.index[rows]
        meta = pd.DataFrame(index=index)
        if division is not None:
            meta[DIVISION] = division[rows]
        known = design(cohort.covariates.iloc[rows]) if clinical else pd.DataFrame(index=index)
        return cls(cohort.outcome.take(rows), cohort.score.iloc[rows].to_frame(SCORE), known, meta)
