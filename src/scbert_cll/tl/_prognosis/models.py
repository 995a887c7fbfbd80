"""All tables of a prognosis but the curves: models, added value, notes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed
from scbert_cll._survival import added_value
from scbert_cll._survival.models import Fit, concordance, fit, stacked
from scbert_cll._survival.outcome import Attrition
from scbert_cll.tl._prognosis import names
from scbert_cll.tl._prognosis.cohort import Cohort, Options, Patients
from scbert_cll.tl._prognosis.names import SCORE
from scbert_cll.tl._prognosis.null import against_random_sets

_SAME: Final = 0.999  # correlation, from which two columns cannot be told apart


def answers(cohort: Cohort, rng: np.random.Generator) -> dict[str, object]:
    """All tables of a prognosis but the curves."""
    options, (for_bootstrap, for_sets, _) = cohort.options, rng.spawn(3)
    attrition, covariates = cohort.attrition.branch(), cohort.covariates
    for name in covariates:
        attrition.require(covariates[name].notna(), f"{name} is missing")
    proliferation, notes = _proliferation(cohort)
    followed = cohort.attrition.included
    scored = cohort.patients(followed, covariates[[]], proliferation)
    complete = scored
    if covariates.shape[1]:
        _check_complete_cases(cohort, attrition)
        complete = cohort.patients(attrition.included, covariates, proliferation)
    _check_events(complete, options)
    gene, gene_notes = _single_gene(cohort)
    models = _models(scored, complete, gene)
    gains, auc, limits = _added_value(models, complete, options, for_bootstrap)
    null, tests, null_notes = against_random_sets(cohort, scored, complete, for_sets)
    outcome, score = complete.outcome, complete.score[SCORE]
    clinical, ratio = complete.clinical, options.expected_ratio
    coefficients = {name: model.table() for name, model in models.items()}
    summaries = [_summary(name, model) for name, model in models.items()]
    x = clinical.to_numpy()
    notes = [*_missing(cohort.score.genes), *notes, *gene_notes, *limits, *null_notes]
    tables = {
        "cox": stacked(coefficients, "model"),
        "models": pd.DataFrame(summaries).rename(index=str),
        "added_value": gains,
        "null": null,
        "null_tests": tests,
        "linearity": added_value.linearity(outcome, score, clinical),
        "power": added_value.power(outcome, score.to_numpy(), x, ratio),
        "flow": attrition.table(),
        "genes": cohort.score.genes.rename(index=str),
        "notes": notes,
    }
    return tables if auc is None else tables | {"auc": auc}


def _check_complete_cases(cohort: Cohort, attrition: Attrition) -> None:
    n, n_events = attrition.size
    if n_events and (cohort.outcome.time is not None or n_events < n):
        return
    lacking = cohort.covariates[cohort.attrition.included].isna().sum()
    counts = [f"{key!r} in {count}" for key, count in lacking.items() if count]
    missing = ", ".join(counts) or "none"
    raise ValueError(
        f"{n} patients have all covariates, {n_events} of them with the event, so there is nothing "
        f"to compare. Missing: {missing}. Leave out the covariates that few patients have."
    )


def _check_events(patients: Patients, options: Options) -> None:
    """Events for the score and the covariates; cell division is a question of its own."""
    variables, n_events = [SCORE, *patients.clinical], patients.outcome.n_informative
    n, least = len(variables), options.min_events_per_variable
    if n_events >= least * n:
        return
    what = "patients in the rarer group" if patients.outcome.time is None else "events"
    need = f"One coefficient needs {least:g} {what}"
    if n > 1:
        need = f"{n} coefficients ({listed(variables, 12)}) need {least:g} {what} each, that is "
        need += f"{least * n:g}"
    n_possible = int(n_events // least) - 1  # covariates with the score
    advice = {
        -1: "There are too few for the score alone. Wait for more",
        0: "Leave the covariates out",
    }.get(n_possible, f"Name at most {n_possible} covariates beside the score")
    raise ValueError(
        f"{need}; there are {n_events}. {advice}, or lower min_events_per_variable and mistrust "
        "the result."
    )


def _missing(genes: pd.DataFrame) -> list[str]:
    lost = genes.loc[~genes["found"].astype(bool), "gene"]
    note = (
        f"{len(lost)} of the {len(genes)} genes of the signature are missing, or do not differ "
        f"between samples: {listed(lost)}."
    )
    return [note] if len(lost) else []


def _proliferation(cohort: Cohort) -> tuple[pd.DataFrame, list[str]]:
    """The meta-gene of cell division, by sample; a table without columns if there is none."""
    score, genes = cohort.score, cohort.options.proliferation
    none = pd.DataFrame(index=score.values.index)
    if score.bulk is None:
        return none, ["There is no expression: nothing is adjusted for cell division."]
    meta, n_present = score.bulk.meta_gene(genes)
    if meta is None:
        note = (
            f"{n_present} of the {len(genes)} genes of cell division are there, and 2 are needed: "
            "no adjustment for it."
        )
        return none, [note]
    rows = cohort.attrition.included
    if abs(np.corrcoef(meta[rows], score.values[rows])[0, 1]) > _SAME:
        return none, ["The score is cell division itself: no adjustment for it."]
    return none.assign(**{names.PROLIFERATION: meta}), []


def _single_gene(cohort: Cohort) -> tuple[pd.Series[float] | None, list[str]]:
    """A gene to compare with, in standard deviations, among the patients that are scored."""
    options, bulk = cohort.options, cohort.score.bulk
    gene, included = options.gene, cohort.attrition.included
    if gene is None or bulk is None:
        return None, []
    (place,) = bulk.places_of([gene])
    if place < 0:
        why = f"{gene} is missing, or does not differ between samples: no comparison with it alone."
        return None, [why]
    measured = np.where(included, bulk.values[:, place], np.nan)
    values = pd.Series(measured, cohort.score.values.index, name=gene)
    if abs(values.corr(cohort.score.values)) > _SAME:
        return None, [f"The score is {gene} itself: no comparison of the two."]
    n_events = cohort.outcome.take(np.flatnonzero(values.notna())).n_informative
    if n_events < 2 * options.min_events_per_variable:
        why = f"{n_events} events in patients with {gene} are too few to compare the score with it."
        return None, [why]
    lost = int(values[included].isna().sum())
    note = (
        f"{gene} was not measured in {lost} of the patients: the comparison with it is without "
        "them."
    )
    return (values - values.mean()) / values.std(), [note] if lost else []


def _models(scored: Patients, complete: Patients, gene: pd.Series[float] | None) -> dict[str, Fit]:
    """Every model by name."""
    outcome, clinical, score = complete.outcome, complete.clinical, complete.score
    models = {SCORE: fit(scored.outcome, scored.score)}
    full = SCORE
    if complete is not scored:
        if len(score) < len(scored.score):
            models[names.COMPLETE] = fit(outcome, score)
        models[names.CLINICAL] = fit(outcome, clinical)
        full = names.FULL
        models[full] = fit(outcome, pd.concat([clinical, score], axis=1))
    if complete.proliferation.shape[1]:
        columns = pd.concat([clinical, score, complete.proliferation], axis=1)
        models[f"{full} + {names.PROLIFERATION}"] = fit(outcome, columns)
    if gene is not None:
        alone = gene[scored.score.index].dropna().to_frame()
        rows = np.flatnonzero(scored.score.index.isin(alone.index))
        measured = scored.outcome.take(rows)
        models[names.GENE] = fit(measured, alone)
        columns = pd.concat([alone, scored.score.loc[alone.index]], axis=1)
        models[names.WITH_GENE] = fit(measured, columns)
    return models


def _summary(name: str, model: Fit) -> dict[str, object]:
    """A row of the table of models."""
    outcome, n = model.outcome, len(model.coef)
    return {
        "model": name,
        "n": len(outcome.event),
        "n_events": outcome.n_events,
        "n_parameters": n,
        "events_per_variable": outcome.n_informative / n,
        "log_likelihood": model.log_likelihood,
        "c_index": concordance(outcome, model.risk),
    }


def _added_value(
    models: dict[str, Fit], cases: Patients, options: Options, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """What the score adds to the covariates (or to nothing) and to a gene; AUC at some times."""
    end = cases.outcome.time
    horizon = None if end is None else float(np.quantile(end, 0.9))
    measures, notes = added_value.measures(cases.outcome, horizon)
    alone = {SCORE: names.NOTHING}
    pairs = {names.FULL: names.CLINICAL} if names.FULL in models else alone
    pairs |= {names.WITH_GENE: names.GENE} if names.WITH_GENE in models else {}
    rows = []
    for (full, base), stream in zip(pairs.items(), rng.spawn(len(pairs)), strict=True):
        model, smaller = models[full], models.get(base)
        # Uno's C weighs by the censoring of these patients
        measured, _ = added_value.measures(model.outcome, horizon)
        columns = model.columns[[]] if smaller is None else smaller.columns
        n = options.n_bootstrap
        gains = added_value.gains(
            model.outcome, columns, model.columns, measured, n_bootstrap=n, rng=stream
        )
        ratio = added_value.likelihood_ratio(smaller, model)
        for measure, gain in gains.items():
            compared = {"measure": measure, "base": base, "full": full}
            rows.append({**compared, **asdict(gain), **ratio})
    auc = _auc(models, cases, options) if "Uno C" in measures else None
    return pd.DataFrame(rows).rename(index=str), auc, notes


def _auc(models: dict[str, Fit], complete: Patients, options: Options) -> pd.DataFrame:
    """AUC(t) of the models of the same patients, apparent."""
    times, outcome = np.asarray(options.times, dtype=np.float64), complete.outcome
    alone = names.COMPLETE if names.COMPLETE in models else SCORE
    of_events = np.asarray(outcome.time)[outcome.event]
    until = [int((of_events <= time).sum()) for time in times]
    table, tables = pd.DataFrame({"time": times, "auc": np.nan, "n_events": until}), {}
    for name in (alone, names.CLINICAL, names.FULL):
        if name in models:
            auc = added_value.auc(outcome, models[name].risk, times)
            tables[name] = table.assign(auc=auc)
    return stacked(tables, "model")
