"""tl.prognosis: does a signature predict outcome beyond established clinical factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import column_names
from scbert_cll._renamed import renamed_arguments
from scbert_cll._signature.weights import Weights
from scbert_cll._survival import curves, units
from scbert_cll._survival import outcome as outcomes
from scbert_cll.tl._prognosis.cohort import Cohort, Options, Score, clinical_covariates
from scbert_cll.tl._prognosis.models import answers
from scbert_cll.tl._prognosis.report import Prognosis

Method = Literal["weighted", "ulm", "waggr", "zscore", "aucell", "gsva"]

_GROUPS: Final = ("low", "high")


@_docs.shared
@renamed_arguments(marker="gene")
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
    method: Method = "weighted",
    score_key: str | None = None,
    layer: str | None = None,
    cut: float | Literal["median"] = "median",
    gene: str | None = "ITGA4",
    proliferation: Sequence[str] = _keys.PROLIFERATION,
    min_matched: float = 0.7,
    min_events_per_variable: float = 10,
    expected_ratio: float = 1.5,
    times: Sequence[float] | None = None,
    n_random: int = 1000,
    n_bootstrap: int = 200,
    time_unit: units.Unit = "years",
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.PROGNOSIS,
) -> Prognosis:
    """Test whether a fixed signature predicts outcome beyond chance and established factors.

    The score of each bulk sample goes into Cox models as it is, per standard deviation: alone, with
    the clinical covariates, and with cell division. What it adds is a likelihood ratio and
    a gain in discrimination without its optimism. Because most sets of genes go with outcome in
    many cohorts, the same is asked of random sets that are as large and as expressed: that p is
    reported with the usual one. Nothing is chosen by the outcome: neither genes nor weights nor the
    cut of the Kaplan–Meier curves. A signature that was found in these patients cannot be judged
    here.

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
    gene
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
    %(key_added)s

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
        decoupler is not installed, for its methods (``pip install 'scbert-cll[score]'``).
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
    (doi:10.1002/sim.9148); without covariates a part of the optimism stays in. Cox
    models: ties as Efron's; proportional hazards: Grambsch and Therneau 1994. Uno's C and AUC(t):
    scikit-survival (extra ``uno``). Power: Schoenfeld 1983, Hsieh and Lavori 2000.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> cohort = sc_cll.datasets.cll_cohort(n_patients=200, n_genes=400)
    >>> signature = cohort.uns["truth"]["signature"]
    >>> outcome = {"time_key": "TTT", "event_key": "treated", "covariates": ["IGHV"]}
    >>> report = sc_cll.tl.prognosis(cohort, signature, **outcome, n_random=200, n_bootstrap=20)
    >>> bool(report.null_tests["empirical_p"].iloc[0] < 0.05)
    True
    """
    params = _record.params(arguments := locals())
    outcomes.patients(adata)
    _checks.adata.target(adata, copy=False)
    strata = tuple(column_names(strata, "strata"))
    keys = outcomes.OutcomeKeys(event_key, time_key, entry_key, competing_key, strata)
    columns = [*keys.columns, score_key, *covariates]
    _checks.adata.new_key(key_added, columns, stems=("_score", "_group"))
    if (signature is None) == (score_key is None):
        raise ValueError("Hand over either a signature or score_key=, the obs column of a score.")
    times = units.usual_times(time_unit) if times is None else times
    chosen = {name: arguments[name] for name in Options.__dataclass_fields__}
    options = Options(**chosen | {"times": times})
    generator = np.random.default_rng(rng)
    outcome, attrition = outcomes.read(adata, keys, time_unit)
    clinical = clinical_covariates(adata, covariates, score_key, keys.columns)
    if signature is None:
        score = Score.of_column(adata, str(score_key), layer)
    else:
        score = Score.of_signature(adata, signature, layer, options)
    values = score.values.to_numpy()
    attrition.require(np.isfinite(values), "the score is missing")
    attrition.check_events(keys)
    cohort = Cohort(outcome, attrition, score, clinical, options)
    result = answers(cohort, generator)
    params["method"] = method if score_key is None else _record.NOTHING
    params["measure"] = "OR" if time_key is None else "HR"
    params["times"] = [float(time) for time in times]
    group = _group(values, attrition.included, cut)
    if time_key is not None:
        rows = np.flatnonzero(attrition.included)
        named = params | {"groupby": "prognosis_group", "groups": list(_GROUPS)}
        by_group = curves.survival(outcome.take(rows), group[rows])
        result["survival"] = {**by_group, "flow": attrition.table(), "params": named}
    obs = {_keys.score(key_added): values, _keys.beside(key_added, "group"): group}
    _record.write(adata, obs=obs, uns={key_added: result | {"params": params}})
    return Prognosis.of(adata.uns[key_added])


def _group(score: np.ndarray, included: np.ndarray, cut: float | str) -> pd.Categorical:
    """Low and high of those who are followed; others are in none."""
    at = np.quantile(score[included], 1 - (0.5 if cut == "median" else float(cut)))
    high = score[included] > at
    if not high.any() or high.all():
        raise ValueError(
            f"The cut leaves all {len(high)} patients in one group, because many share one value "
            "of the score; tl.survival compares such groups."
        )
    codes = np.where(np.isfinite(score), (score > at).astype(np.int64), -1)
    groups = pd.CategoricalDtype(list(_GROUPS), ordered=True)
    return pd.Categorical.from_codes(codes.tolist(), dtype=groups)
