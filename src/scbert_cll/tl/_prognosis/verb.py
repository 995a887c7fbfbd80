"""tl.prognosis: whether a signature says something of the outcome that the clinic does not know already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, number_in
from scbert_cll._signature import decoupler
from scbert_cll._signature.weights import Weights, check_matched, check_not_empty, weights
from scbert_cll._survival import checks as survival_checks
from scbert_cll._survival import curves, units
from scbert_cll._survival import outcome as outcomes
from scbert_cll._survival.units import Unit
from scbert_cll.tl._prognosis.bulk import WEIGHTED, Bulk, unit
from scbert_cll.tl._prognosis.cohort import DIVISION, SCORE, Asked, Cohort
from scbert_cll.tl._prognosis.models import answers
from scbert_cll.tl._prognosis.report import Prognosis

Score = Literal["weighted", "ulm", "waggr", "zscore", "aucell", "gsva"]

_GROUPS: Final = ("low", "high")


def prognosis(
    adata: AnnData,
    signature: Weights | None = None,
    *,
    time_key: str | None,
    event_key: str,
    covariates: Sequence[str] = (),
    strata: Sequence[str] = (),
    entry_key: str | None = None,
    competing_key: str | None = None,
    method: Score = "weighted",
    score_key: str | None = None,
    layer: str | None = None,
    cut: float | Literal["median"] = "median",
    marker: str | None = "ITGA4",
    proliferation: Sequence[str] = _keys.PROLIFERATION,
    min_matched: float = 0.7,
    min_events_per_variable: float = 10,
    expected_ratio: float = 1.5,
    times: Sequence[float] | None = None,
    n_random: int = 1000,
    n_bootstrap: int = 200,
    time_unit: Unit = "years",
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.PROGNOSIS,
) -> Prognosis:
    """Ask whether a fixed signature tells how patients fare, beyond chance, beyond cell division and beyond what the clinic knows.

    The score of each bulk sample goes into Cox models as it is, per standard deviation: alone,
    beside the clinical covariates, and beside cell division. What it adds is a likelihood ratio and
    a gain in discrimination without its optimism. Because most sets of genes go with outcome in
    many cohorts, the same is asked of random sets that are as large and as expressed: that p stands
    beside the usual one. Nothing is chosen by the outcome: neither genes nor weights nor the cut of
    the Kaplan–Meier curves. A signature that was found in these patients cannot be judged here.

    Parameters
    ----------
    adata
        Bulk samples × genes, one sample per patient, log-expression; the outcome and the covariates
        are in `obs`. Values that were not measured are NaN.
    signature
        As for :func:`~scbert_cll.tl.score_signature`: a table with ``gene`` and ``weight`` (or one
        of :func:`~scbert_cll.tl.signature`), a mapping, a list of genes, or a ``.gmt`` file. None
        with `score_key`.
    time_key
        ``obs`` column of follow-up, from 0. None if it is only known who had the event: then
        logistic regression takes the place of Cox's.
    event_key
        ``obs`` column: 1 the event, 0 censored (or the competing event).
    covariates
        ``obs`` columns that the clinic knows: numbers, 0/1, or categories (against the first).
        Effects are per unit.
    strata
        ``obs`` columns whose groups have a baseline hazard of their own, such as a cohort.
    entry_key
        ``obs`` column of the time from which a patient was under observation, on the clock of
        `time_key`: years from diagnosis to sample where time runs from diagnosis. Without it,
        patients who had the event before they could be sampled are missing, and nobody corrects for
        it.
    competing_key
        ``obs`` column: 1 if follow-up ended with an event after which the other cannot come (death
        before treatment). Cox models are then cause-specific, and cumulative incidences
        (Aalen–Johansen) are given beside Kaplan–Meier.
    method
        ``"weighted"``: sum of the weights times the genes' standard deviations from their means
        over the samples. Otherwise decoupler's: of each sample alone as in
        :func:`~scbert_cll.tl.score_signature`, or ``"gsva"``, by ranks of genes within the cohort
        (a minute or two with 1,000 random sets); of the weights only the signs count in it.
    score_key
        ``obs`` column of a score to take instead of a signature (percentage of CD49d-positive
        cells, say); there are no random sets for it then.
    layer
        Layer with the expression; None means `adata.X`.
    cut
        Where the curves part the patients: the median, or the share of patients that belong to the
        high group. Decide it before looking.
    marker
        A gene that is compared with the signature on its own. None for no comparison.
    proliferation
        Genes whose mean stands for cell division: by default the eleven of PAM50's index and
        *PCNA*. At least two must be there.
    min_matched
        Share of the signature's weight that must lie on genes of `adata`, and on measured genes of
        a sample for it to be scored.
    min_events_per_variable
        Events that each coefficient needs; with fewer, nothing is fitted.
    expected_ratio
        Hazard ratio per standard deviation that power is stated for. *CD49d* itself has about 2
        between the groups (Bulian et al. 2014), which is 1.4 per standard deviation.
    times
        Times for the AUC, in the unit of `time_key`. None: two and five years.
    n_random
        Random sets. 0 for none, which also takes the empirical p away.
    n_bootstrap
        Times that patients are drawn with replacement, for what discrimination gains. 0 for none.
    time_unit
        Unit of `time_key`, `entry_key` and `times`: ``"years"``, ``"months"`` or ``"days"``.
        Nothing is converted; tables, plots and report are in it.
    rng
        Seed or generator for random sets and bootstrap.
    key_added
        Name of what is written.

    Returns
    -------
    Everything that was found; ``print`` it for a report. `adata` then holds:

    ``adata.obs['prognosis_score']`` : float64
        Score in standard deviations over the scored samples, NaN where too little was measured.
    ``adata.obs['prognosis_group']`` : categorical
        low < high, by `cut`.
    ``adata.uns['prognosis']`` : dict
        DataFrames ``cox``, ``models``, ``added_value``, ``null_tests``, ``null`` (z of every random
        set), ``auc`` (with scikit-survival), ``flow`` (who was left out and why), ``genes``; dicts
        ``linearity``, ``power``, ``params``, and ``survival`` (the curves of the two groups, as
        :func:`~scbert_cll.tl.survival` writes them); ``notes``. :func:`~scbert_cll.get.prognosis`
        takes them out.

    Raises
    ------
    ImportError
        lifelines is not installed (``pip install 'scbert-cll[prognosis]'``), or decoupler for its
        methods.
    KeyError
        A column is not in `obs`.
    ValueError
        Times are negative or cannot be in `time_unit`, an event is neither 0 nor 1, nobody has it,
        samples are named twice, too little of the signature is there, there are too few events for
        the covariates, a covariate is constant, redundant or knows the outcome, or the values are
        not on a log scale.

    Notes
    -----
    Random sets: Venet et al. 2011 (doi:10.1371/journal.pcbi.1002240). Each gene is replaced by one
    of like mean and spread, with the same weight; z is that of Rao's score test, one fit for all
    sets. Optimism: Harrell's bootstrap; interval of the gain: Noma et al. 2021
    (doi:10.1002/sim.9148); without covariates a part of the optimism stays in. Models: lifelines,
    ties as Efron's; proportional hazards: Grambsch and Therneau 1994. Uno's C and AUC(t):
    scikit-survival (extra ``uno``). Power: Schoenfeld 1983, Hsieh and Lavori 2000.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> cohort = sc_cll.datasets.cll_cohort(n_patients=200, n_genes=400)
    >>> signature = cohort.uns["truth"]["signature"]
    >>> report = sc_cll.tl.prognosis(
    ...     cohort, signature, time_key="TTT", event_key="treated", covariates=["IGHV"], n_random=200, n_bootstrap=20
    ... )
    >>> bool(report.null_tests["empirical_p"].iloc[0] < 0.05)
    True
    """
    params = _record.params(locals())
    survival_checks.patients(adata)
    _checks.adata.target(adata, copy=False)
    read = [time_key, event_key, entry_key, competing_key, score_key, *covariates, *strata]
    _checks.slots.new_key(key_added, read, stems=("_score", "_group"))
    _check_choices(
        signature, score_key, method, cut, min_matched, n_random, n_bootstrap, expected_ratio
    )
    times = units.usual_times(time_unit) if times is None else times
    _check_lists(marker, proliferation, times, min_events_per_variable)
    params["times"] = [float(time) for time in times]
    generator = np.random.default_rng(rng)
    obs: Any = adata.obs
    outcome, flow = outcomes.read(
        obs,
        time_key=time_key,
        event_key=event_key,
        entry_key=entry_key,
        competing_key=competing_key,
        strata=survival_checks.names(strata, "strata"),
    )
    if time_key is not None:
        units.check(adata, outcome, flow, time_key, time_unit)
    taken = [key for key in (time_key, event_key, entry_key, competing_key, *strata) if key]
    clinical = _clinical(adata, covariates, score_key, taken)
    bulk = _bulk(adata, layer, needed=score_key is None)
    score, genes, place = _score(adata, bulk, signature, score_key, method, min_matched)
    flow.keep(np.isfinite(score), "the score is missing")
    survival_checks.enough_events(
        flow.event & flow.kept, flow.kept, event_key, timed=time_key is not None
    )
    asked = Asked(
        method,
        marker,
        tuple(proliferation),
        min_events_per_variable,
        expected_ratio,
        tuple(times),
        n_random,
        n_bootstrap,
    )
    cohort = Cohort(
        outcome, flow, pd.Series(score, adata.obs_names, name="score"), clinical, bulk, genes, place
    )
    found = answers(cohort, asked, generator)
    params |= {"method": method} if score_key is None else {"method": _record.NOTHING}
    params["measure"] = "OR" if time_key is None else "HR"
    group = _groups(score, flow.kept, cut)
    if time_key is not None:
        found["survival"] = _curves(outcome, flow, group, params)
    _write(adata, score, group, found | {"params": params}, key_added)
    return Prognosis.of(adata.uns[key_added])


def _check_choices(
    signature: Any,
    score_key: str | None,
    method: str,
    cut: Any,
    min_matched: float,
    n_random: int,
    n_bootstrap: int,
    ratio: float,
) -> None:
    if (signature is None) == (score_key is None):
        raise ValueError("Hand over either a signature or score_key=, the obs column of a score.")
    choice(method, (WEIGHTED, *decoupler.OF_COHORTS), "method")
    survival_checks.cut(cut)
    _checks.words.share(min_matched, "min_matched")
    number_in(n_random, "n_random", 0, np.inf, whole=True)
    number_in(n_bootstrap, "n_bootstrap", 0, np.inf, whole=True)
    number_in(ratio, "expected_ratio", 1.01, 100)


def _check_lists(marker: Any, proliferation: Any, times: Any, min_events_per_variable: Any) -> None:
    survival_checks.one_gene(marker)
    survival_checks.genes(proliferation, "proliferation")
    survival_checks.moments(times)
    number_in(min_events_per_variable, "min_events_per_variable", 0, np.inf)


def _clinical(
    adata: AnnData, covariates: Sequence[str], score_key: str | None, taken: Sequence[str]
) -> pd.DataFrame:
    """What the clinic knows; as a score of the user's, it is no outcome."""
    if score_key is not None:
        survival_checks.no_outcome(adata, score_key, taken, "name another score_key")
    found = survival_checks.covariates(adata, covariates, taken)
    survival_checks.not_named(covariates, (SCORE, DIVISION))
    return found


def _bulk(adata: AnnData, layer: str | None, *, needed: bool) -> Bulk | None:
    """The expression; a score of the user's does without."""
    if not needed and (adata.X is None or not adata.n_vars):
        return None
    values = survival_checks.log_expression(adata, layer)
    _checks.adata.anndata(adata)
    return Bulk(values, adata.var_names)


def _score(
    adata: AnnData,
    bulk: Bulk | None,
    signature: Weights | None,
    score_key: str | None,
    method: str,
    min_matched: float,
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Score of each sample in standard deviations, its genes, and where those are in the object."""
    if score_key is not None or bulk is None or signature is None:
        obs: Any = adata.obs
        values = survival_checks.score_column(obs, str(score_key)).to_numpy()
        return (
            unit(values),
            pd.DataFrame({"gene": [], "weight": [], "found": []}),
            np.empty(0, dtype=np.int64),
        )
    weight = weights(signature)
    check_not_empty(len(weight), "no gene was handed over", "there is nothing to score")
    found = weight.index.isin(bulk.names[bulk.usable])
    check_matched(weight, found, "adata (and differ between its samples)", min_matched=min_matched)
    genes = pd.DataFrame(
        {
            "gene": weight.index.astype(str),
            "weight": weight.to_numpy(dtype=np.float64),
            "found": found,
        }
    )
    used = weight[found].astype(np.float64)
    place = bulk.names.get_indexer(used.index)
    if method != WEIGHTED:
        survival_checks.no_missing(bulk.values, adata, method)
    values = bulk.scores(place[None, :], used.to_numpy(), method)[:, 0]
    enough = bulk.measured(used) >= min_matched
    return unit(np.where(enough, values, np.nan)), genes, place


def _groups(score: np.ndarray, kept: np.ndarray, cut: float | str) -> Any:
    """Low and high of those who are followed; others are in none."""
    share = 0.5 if cut == "median" else float(cut)
    at = np.quantile(score[kept], 1 - share)
    survival_checks.two_groups(score[kept] > at)
    code = np.where(np.isfinite(score), (score > at).astype(np.int64), -1)
    return pd.Categorical.from_codes(code.tolist(), categories=pd.Index(_GROUPS), ordered=True)


def _curves(
    outcome: outcomes.Outcome, flow: outcomes.Flow, group: Any, params: dict[str, Any]
) -> dict[str, Any]:
    """Curves of the two groups, without covariates, as tl.survival writes them."""
    rows = np.flatnonzero(flow.kept)
    found = curves.survival(outcome.take(rows), group[rows])
    return found | {
        "flow": flow.table(),
        "params": params | {"groupby": "prognosis_group", "groups": list(_GROUPS)},
    }


def _write(adata: AnnData, score: np.ndarray, group: Any, record: dict[str, Any], key: str) -> None:
    obs = {f"{key}_score": score, f"{key}_group": group}
    _record.write(adata, obs=obs, uns={key: record})
