"""The patients of a prognosis: their outcome, score and covariates, and the options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.words import choice, key_in, listed, number_in, share
from scbert_cll._signature import decoupler, weights
from scbert_cll._signature.weights import Weights
from scbert_cll._survival import outcome as outcomes
from scbert_cll._survival.models import design
from scbert_cll._survival.units import numbers_of
from scbert_cll.tl._prognosis.bulk import WEIGHTED, Bulk, unit
from scbert_cll.tl._prognosis.names import PROLIFERATION, SCORE


@dataclass(frozen=True)
class Options:
    """How a score is made, compared and judged."""

    method: str
    min_matched: float
    cut: float | Literal["median"]
    gene: str | None
    proliferation: Sequence[str]
    min_events_per_variable: float
    expected_ratio: float
    times: Sequence[float]
    n_random: int
    n_bootstrap: int

    def __post_init__(self) -> None:
        choice(self.method, (WEIGHTED, *decoupler.OF_COHORTS), "method")
        cut = self.cut
        is_number = isinstance(cut, int | float) and not isinstance(cut, bool)
        if cut != "median" and not (is_number and 0 < cut < 1):
            raise ValueError(
                "cut must be 'median' or the share of patients in the high group (above 0, below "
                f"1); found {cut!r}. A cut that is chosen to make p small is not offered."
            )
        share(self.min_matched, "min_matched")
        number_in(self.n_random, "n_random", 0, np.inf, whole=True)
        number_in(self.n_bootstrap, "n_bootstrap", 0, np.inf, whole=True)
        number_in(self.expected_ratio, "expected_ratio", 1.01, 100)
        number_in(self.min_events_per_variable, "min_events_per_variable", 0, np.inf)
        if self.gene is not None and not isinstance(self.gene, str):
            raise TypeError(f"gene must be the name of one gene, or None; found {self.gene!r}.")
        lists = {"proliferation": "genes (or empty: ())", "times": "times, e.g. [2, 5]"}
        for name, expected in lists.items():
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise TypeError(f"{name} must be a list of {expected}; found {values!r}.")
        for time in self.times:
            number_in(time, "Each of times", 0, np.inf)


@dataclass(frozen=True)
class Score:
    """The score of each sample in standard deviations, and the genes that it is made of."""

    values: pd.Series  # NaN where too little was measured
    bulk: Bulk | None
    genes: pd.DataFrame  # gene, weight, found
    places: np.ndarray  # of the genes that were found, in `bulk`

    @classmethod
    def of_column(cls, adata: AnnData, key: str, layer: str | None) -> Score:
        """A column of `obs`; expression is taken along where there is some."""
        bulk = None
        if adata.X is not None and adata.n_vars:
            bulk = Bulk.of(adata, layer)
            _checks.adata.anndata(adata)
        obs = cast("pd.DataFrame", adata.obs)
        key_in(key, obs, "adata.obs", "Name the column that holds the score.")
        values = numbers_of(obs, key, "numbers (for groups there is tl.survival)")
        genes = pd.DataFrame({"gene": [], "weight": [], "found": []})
        score = pd.Series(unit(values.to_numpy()), adata.obs_names, name=SCORE)
        return cls(score, bulk, genes, np.empty(0, dtype=np.int64))

    @classmethod
    def of_signature(
        cls, adata: AnnData, signature: Weights, layer: str | None, options: Options
    ) -> Score:
        """A weighted sum of genes, or one of decoupler's scores."""
        bulk = Bulk.of(adata, layer)
        _checks.adata.anndata(adata)
        weight, what = weights.weights(signature), "there is nothing to score"
        weights.check_not_empty(len(weight), "no gene was handed over", what)
        places = bulk.places_of(weight.index)
        present = places >= 0
        where = "adata (and differ between its samples)"
        weights.check_matched(weight, present, where, min_matched=options.min_matched)
        places, method = places[present], options.method
        used = weight[present].astype(np.float64).set_axis(bulk.names[places])
        incomplete = adata.obs_names[~np.isfinite(bulk.values).all(axis=1)]
        if method != WEIGHTED and len(incomplete):
            raise ValueError(
                f"method={method!r} needs every gene in every sample; NaN in {len(incomplete)} "
                f"samples: {listed(incomplete)}. method='weighted' does without."
            )
        values = bulk.scores(places[None, :], used.to_numpy(), method)[:, 0]
        values = np.where(bulk.measured(used) >= options.min_matched, values, np.nan)
        genes = weight.rename_axis("gene").reset_index(name="weight")
        score = pd.Series(unit(values), adata.obs_names, name=SCORE)
        return cls(score, bulk, genes.assign(found=present), places)


@dataclass(frozen=True)
class Cohort:
    """All samples, who of them is followed and scored, and what is asked of them."""

    outcome: outcomes.Outcome
    attrition: outcomes.Attrition
    score: Score
    covariates: pd.DataFrame
    options: Options

    def patients(
        self, who: np.ndarray, covariates: pd.DataFrame, proliferation: pd.DataFrame
    ) -> Patients:
        """Some of them, true/false; covariates and proliferation are those of all samples."""
        rows = np.flatnonzero(who)
        outcome, clinical = self.outcome.take(rows), design(covariates.iloc[rows])
        score = self.score.values.iloc[rows].to_frame()
        return Patients(rows, outcome, score, clinical, proliferation.iloc[rows])


def clinical_covariates(
    adata: AnnData, keys: Sequence[str], score_key: str | None, outcome: Sequence[str]
) -> pd.DataFrame:
    """Established clinical factors; neither they nor a score of the user's are an outcome."""
    if score_key is not None:
        outcomes.refuse_outcome(adata, score_key, outcome, "name another score_key")
    columns = outcomes.covariates(adata, keys, outcome)
    if clash := [key for key in keys if key in (SCORE, PROLIFERATION)]:
        raise ValueError(
            f"Covariates cannot be called {listed(clash)}, as columns of the models are: rename "
            "the column, adata.obs.rename(columns=...)."
        )
    return columns


@dataclass
class Patients:
    """Some of the samples, with the columns of the models."""

    rows: np.ndarray
    outcome: outcomes.Outcome
    score: pd.DataFrame  # one column
    clinical: pd.DataFrame  # numbers
    proliferation: pd.DataFrame  # one column, or none
