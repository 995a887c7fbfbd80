"""The questions that are asked of a score and an outcome."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed
from scbert_cll._survival import added_value, models, power
from scbert_cll._survival import checks as survival_checks
from scbert_cll._survival.models import Fit, fit
from scbert_cll._survival.outcome import Outcome
from scbert_cll.tl._prognosis.cohort import (
    CLINICAL,
    COMPLETE,
    DIVISION,
    MARKER,
    NOTHING,
    SAME,
    SCORE,
    Asked,
    Cohort,
    Patients,
)
from scbert_cll.tl._prognosis.null import against_random_sets


def answers(cohort: Cohort, asked: Asked, rng: np.random.Generator) -> dict[str, Any]:
    """All tables of a prognosis but the curves."""
    streams = rng.spawn(3)
    flow = cohort.flow.branch()
    for name in cohort.covariates:
        flow.keep(cohort.covariates[name].notna().to_numpy(), f"{name} is missing")
    division, notes = _division(cohort, asked)
    scored = Patients.of(cohort, np.flatnonzero(cohort.flow.kept), division, clinical=False)
    complete = scored
    if cohort.covariates.shape[1]:
        lacking = cohort.covariates[cohort.flow.kept].isna().sum().to_dict()
        survival_checks.complete_cases(
            flow.event, flow.kept, lacking, timed=cohort.outcome.time is not None
        )
        complete = Patients.of(cohort, np.flatnonzero(flow.kept), division, clinical=True)
    _enough(complete, asked)
    marker, more = _marker(cohort, asked)
    fits = _fits(scored, complete, marker)
    value, auc, limits = _added_value(scored, complete, marker, asked, streams[0], fits)
    null, tests, doubts = against_random_sets(
        cohort, asked, scored, complete, flow.kept, streams[1]
    )
    of_score = np.asarray(complete.score[SCORE])
    return {
        "cox": _stacked({name: one.table() for name, one in fits.items()}),
        "models": _summary(fits, scored, complete, marker),
        "added_value": value,
        "null": null,
        "null_tests": tests,
        "linearity": power.linearity(complete.outcome, complete.score[SCORE], complete.clinical),
        "power": power.power(
            complete.outcome, of_score, complete.clinical.to_numpy(), asked.expected_ratio
        ),
        "flow": flow.table(),
        "genes": cohort.genes.rename(index=str),
        "notes": [*_missing(cohort.genes), *notes, *more, *limits, *doubts],
    } | ({} if auc is None else {"auc": auc})


def _enough(patients: Patients, asked: Asked) -> None:
    """Events for the score and the covariates; cell division is a question beside them."""
    names = [SCORE, *patients.clinical]
    timed = patients.outcome.time is not None
    survival_checks.events_per_variable(
        patients.outcome.n_informative,
        len(names),
        asked.min_events_per_variable,
        names,
        timed=timed,
    )


def _missing(genes: pd.DataFrame) -> list[str]:
    lost = genes.loc[~genes["found"].astype(bool), "gene"]
    if not len(lost):
        return []
    return [
        (
            f"{len(lost)} of the {len(genes)} genes of the signature are not there, or do not "
            f"differ between samples: {listed(lost)}."
        )
    ]


def _division(cohort: Cohort, asked: Asked) -> tuple[np.ndarray | None, list[str]]:
    """The meta-gene of cell division, by sample."""
    if cohort.bulk is None:
        return None, ["There is no expression, so nothing is adjusted for cell division."]
    meta, found = cohort.bulk.meta_gene(asked.proliferation)
    if meta is None:
        return None, [
            (
                f"{len(found)} of the {len(asked.proliferation)} genes of cell division are "
                f"there, and 2 are needed: no adjustment for it."
            )
        ]
    if abs(np.corrcoef(meta[cohort.flow.kept], cohort.score[cohort.flow.kept])[0, 1]) > SAME:
        return None, ["The score is cell division itself: no adjustment for it."]
    return meta, []


def _marker(cohort: Cohort, asked: Asked) -> tuple[pd.Series | None, list[str]]:
    """A single gene in standard deviations, among the patients that are scored."""
    if asked.marker is None or cohort.bulk is None:
        return None, []
    if asked.marker not in cohort.bulk.names[cohort.bulk.usable]:
        return None, [
            (
                f"{asked.marker} is not there, or does not differ between samples: no comparison "
                f"with it alone."
            )
        ]
    known = cohort.bulk.values[:, cohort.bulk.names.get_indexer(pd.Index([asked.marker]))[0]]
    values = pd.Series(
        np.where(cohort.flow.kept, known, np.nan), cohort.score.index, name=asked.marker
    )
    if abs(values.corr(cohort.score)) > SAME:
        return None, [f"The score is {asked.marker} itself: no comparison of the two."]
    both = cohort.outcome.take(np.flatnonzero(values.notna()))
    if both.n_informative < 2 * asked.min_events_per_variable:
        return None, [
            (
                f"{both.n_informative} events in patients with {asked.marker} are too few to "
                f"compare the score with it."
            )
        ]
    lost = int(values[cohort.flow.kept].isna().sum())
    notes = (
        [
            (
                f"{asked.marker} was not measured in {lost} of the patients: the comparison with "
                f"it is without them."
            )
        ]
        if lost
        else []
    )
    return (values - values.mean()) / values.std(), notes


def _fits(scored: Patients, complete: Patients, marker: pd.Series | None) -> dict[str, Fit]:
    """Every model by name."""
    found = {SCORE: fit(scored.outcome, scored.score, proportional=True)}
    base = ""
    if complete is not scored:
        base = f"{CLINICAL} + "
        if len(complete.score) < len(scored.score):
            found[COMPLETE] = fit(complete.outcome, complete.score, proportional=True)
        found[CLINICAL] = fit(complete.outcome, complete.clinical, proportional=True)
        both = pd.concat([complete.clinical, complete.score], axis=1)
        found[base + SCORE] = fit(complete.outcome, both, proportional=True)
    if complete.division.shape[1]:
        columns = pd.concat([complete.clinical, complete.score, complete.division], axis=1)
        found[f"{base}{SCORE} + {DIVISION}"] = fit(complete.outcome, columns, proportional=True)
    if marker is not None:
        outcome, alone, both = _with_marker(scored, marker)
        found[MARKER] = fit(outcome, alone, proportional=True)
        found[f"{MARKER} + {SCORE}"] = fit(outcome, both, proportional=True)
    return found


def _with_marker(scored: Patients, marker: pd.Series) -> tuple[Outcome, pd.DataFrame, pd.DataFrame]:
    """The patients in whom the marker was measured, with it and with both."""
    known = marker.reindex(scored.score.index).notna().to_numpy()
    alone = marker.reindex(scored.score.index[known]).to_frame()
    return (
        scored.outcome.take(np.flatnonzero(known)),
        alone,
        pd.concat([alone, scored.score[known]], axis=1),
    )


def _stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    parts = [table.assign(model=name)[["model", *table]] for name, table in tables.items()]
    return pd.concat(parts, ignore_index=True).rename(index=str)


def _summary(
    fits: dict[str, Fit], scored: Patients, complete: Patients, marker: pd.Series | None
) -> pd.DataFrame:
    """One row per model."""
    rows = []
    for name, one in fits.items():
        outcome = scored.outcome if name == SCORE else complete.outcome
        if marker is not None and name.startswith(MARKER):
            outcome, _, _ = _with_marker(scored, marker)
        rows.append(
            {
                "model": name,
                "n": one.n,
                "n_events": one.n_events,
                "n_parameters": len(one.coef),
                "events_per_variable": one.n_informative / len(one.coef),
                "log_likelihood": one.log_likelihood,
                "c_index": models.concordance(outcome, one.risk),
            }
        )
    return pd.DataFrame(rows).rename(index=str)


def _added_value(
    scored: Patients,
    complete: Patients,
    marker: pd.Series | None,
    asked: Asked,
    rng: np.random.Generator,
    fits: dict[str, Fit],
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """What the score adds to the covariates (or to nothing), and to the marker.

    And the AUC at some times.
    """
    timed = complete.outcome.time is not None
    horizon = float(np.quantile(np.asarray(complete.outcome.time), 0.9)) if timed else None
    measures, notes = added_value.measures(complete.outcome, horizon)
    full = pd.concat([complete.clinical, complete.score], axis=1)
    name = NOTHING if complete is scored else CLINICAL
    full_name = SCORE if complete is scored else f"{CLINICAL} + {SCORE}"
    parts = [(name, full_name, complete.outcome, complete.clinical, full)]
    if marker is not None:
        parts += [(MARKER, f"{MARKER} + {SCORE}", *_with_marker(scored, marker))]
    rows: list[dict[str, Any]] = []
    for (base_name, name_of_full, outcome, base, both), stream in zip(
        parts, rng.spawn(len(parts)), strict=True
    ):
        own, _ = added_value.measures(
            outcome, horizon
        )  # Uno's C weighs by the censoring of these patients
        gains = added_value.gains(
            outcome, base, both, own, n_bootstrap=asked.n_bootstrap, rng=stream
        )
        ratio = added_value.likelihood_ratio(fits.get(base_name), fits[name_of_full])
        rows += [
            _row(measure, base_name, name_of_full, gain) | ratio for measure, gain in gains.items()
        ]
    auc = _auc(complete, fits, asked) if "Uno C" in measures else None
    return pd.DataFrame(rows).rename(index=str), auc, notes


def _row(measure: str, base: str, full: str, gain: added_value.Gain) -> dict[str, Any]:
    return {
        "measure": measure,
        "base": base,
        "full": full,
        "base_value": gain.base,
        "full_value": gain.full,
        "delta": gain.delta,
        "optimism": gain.optimism,
        "delta_corrected": gain.delta - gain.optimism,
        "ci_low": gain.low,
        "ci_high": gain.high,
        "n_bootstrap": gain.n_bootstrap,
    }


def _auc(complete: Patients, fits: dict[str, Fit], asked: Asked) -> pd.DataFrame:
    """AUC(t) of the models of the same patients, apparent."""
    times = np.asarray(asked.times, dtype=np.float64)
    names = [
        name
        for name in (COMPLETE if COMPLETE in fits else SCORE, CLINICAL, f"{CLINICAL} + {SCORE}")
        if name in fits
    ]
    end, event = np.asarray(complete.outcome.time), complete.outcome.event
    until = [int((event & (end <= time)).sum()) for time in times]
    parts = [
        pd.DataFrame(
            {
                "model": name,
                "time": times,
                "auc": added_value.auc(complete.outcome, fits[name].risk, times),
                "n_events": until,
            }
        )
        for name in names
    ]
    return pd.concat(parts, ignore_index=True).rename(index=str)
