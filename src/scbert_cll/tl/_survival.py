"""tl.survival: groups of patients and their time to an event."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import column_names, number_in
from scbert_cll._survival import curves, outcome
from scbert_cll._survival.units import Unit


@_docs.shared
def survival(
    adata: AnnData,
    groupby: str,
    *,
    time_key: str,
    event_key: str,
    entry_key: str | None = None,
    competing_key: str | None = None,
    strata: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    time_unit: Unit = "years",
    min_group: int = 5,
    key_added: str = _keys.SURVIVAL,
    copy: bool = False,
) -> AnnData | None:
    """Compare groups of patients in the time to an event: curves, log-rank test, hazard ratios.

    The groups must be known when the clock starts: patients grouped by what happens later (a
    response, a treatment) had to live to see it. Nobody is dropped in silence: who has no group, no
    outcome or no covariate is counted in ``flow``. Curves take no account of strata and covariates;
    test and ratios do.

    Parameters
    ----------
    adata
        Patients × genes, one row per patient; genes may be none.
    groupby
        `obs` column of the groups: categories, text, true and false, or up to ten whole numbers. It
        is not cut here.
    time_key
        `obs` column of the time to the event or to the end of follow-up.
    event_key
        `obs` column: 1 the event, 0 censored.
    entry_key
        `obs` column of the time from which a patient is under observation, on the same clock
        (delayed entry): with the clock started at diagnosis, the time of the sample. Before it a
        patient is not at risk.
    competing_key
        `obs` column: 1 if follow-up ended with what makes the event impossible, as death before
        treatment. Test and ratios censor these patients: they are about the rate among those still
        at risk (cause-specific). Kaplan–Meier then gives the time to the event in a world without
        the competing one, and 1 minus it overestimates how many have the event; ``incidence`` has
        the shares.
    strata
        `obs` columns; each combination has a baseline of its own in test and ratios, as for several
        cohorts.
    covariates
        `obs` columns for a second Cox model beside the groups.
    groups
        Groups to compare, the reference first. None takes all, in the column's order.
    time_unit
        Unit of `time_key` and `entry_key`: ``"years"``, ``"months"`` or ``"days"``. Nothing is
        converted; tables and axes are in it.
    min_group
        Patients with an outcome that every group needs.
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['survival']`` : dict
        ``curves``, DataFrame: ``group``, ``time``, ``survival`` (Kaplan–Meier, from the group's
        first entry) with 95 % limits ``ci_low`` and ``ci_high``, ``at_risk`` just before that time
        (in the first row: at it), ``n_events`` and ``n_censored`` at it. ``groups``: ``group``,
        ``n``, ``n_events``, ``median`` (NaN if not reached) with ``median_low`` and
        ``median_high``, ``follow_up`` (median, of Kaplan–Meier for being censored), hazard
        ``ratio`` to the first group with ``ci_low``, ``ci_high``, ``p``, and ``ph_p`` of a ratio
        that changes with time. ``logrank``: ``chi2``, ``df``, ``p``. ``flow``: ``step``,
        ``n_left_out``, ``n``, ``n_events``. ``notes``, what to be careful about. ``incidence`` with
        competing events: ``group``, ``cause`` (event, competing), ``time``, ``incidence``,
        ``ci_low``, ``ci_high``. ``cox`` with covariates: ``model`` (group, group (complete cases)
        if patients lack a covariate, group + covariates), ``variable``, ``coef``, ``se``,
        ``ratio``, ``ci_low``, ``ci_high``, ``z``, ``p``, ``ph_p``, ``n``, ``n_events``. ``params``.

    Raises
    ------
    KeyError
        A column is missing.
    TypeError
        One name where a list is expected.
    ValueError
        Samples or an outcome that cannot be (a time below 0 or that cannot be in `time_unit`, an
        event that is neither 0 nor 1, nobody with the event), fewer than two groups, a group that
        is too small, numbers that are no groups, or covariates that tell the outcome or each other
        exactly.

    Warns
    -----
    UserWarning
        Each of the ``notes``: a group without events, few patients at risk while others have not
        entered yet, a hazard ratio that changes with time, too few events for the covariates.

    Notes
    -----
    Kaplan and Meier 1958 (doi:10.1080/01621459.1958.10501452), limits on the log(−log) scale;
    log-rank test with the hypergeometric variance; Cox models with Efron's ties; the
    test of a changing ratio is Grambsch and Therneau's (doi:10.1093/biomet/81.3.515); cumulative
    incidence of Aalen and Johansen 1978 with the delta method's variance. Ties are taken as they
    are. In a tie a patient who enters at a time is not at risk for it, and one who is censored at
    it is.

    Examples
    --------
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> import scbert_cll as sc_cll
    >>> obs = pd.DataFrame({"CD49d": ["-"] * 6 + ["+"] * 6, "treated": [1, 0] * 6})
    >>> obs["TTT"] = [4, 5, 6, 7, 8, 9, 1, 2, 2, 3, 5, 6]
    >>> adata = AnnData(obs=obs.rename(index=str))
    >>> sc_cll.tl.survival(adata, "CD49d", time_key="TTT", event_key="treated", groups=["-", "+"])
    >>> adata.uns["survival"]["groups"][["group", "n", "n_events", "median"]]
      group  n  n_events  median
    0     -  6         3     8.0
    1     +  6         3     5.0
    """
    params = _record.params(locals())
    adata = outcome.patients(adata)
    _checks.adata.new_key(key_added)
    number_in(min_group, "min_group", 1, np.inf, whole=True)
    strata = column_names(strata or (), "strata")
    covariates = column_names(covariates, "covariates")
    target = _checks.adata.target(adata, copy=copy)
    clock = time_key, entry_key, competing_key
    keys = outcome.OutcomeKeys(event_key, *clock, tuple(strata))
    ends, attrition = outcome.read(adata, keys, time_unit)
    obs, taken = cast("pd.DataFrame", adata.obs), [*keys.columns, *covariates]
    group = outcome.patient_groups(obs, groupby, taken)
    order = outcome.chosen_groups(group, groupby, groups)
    clinical = outcome.covariates(adata, covariates, keys.columns)
    attrition.require(group.notna(), f"{groupby} is missing")
    attrition.require(group.isin(order), f"another group of {groupby}")
    rows = np.flatnonzero(attrition.included)
    compared = pd.Categorical(group.iloc[rows].astype(object), order)
    sizes = compared.value_counts().items()
    if small := [f"{label!r} has {n}" for label, n in sizes if n < min_group]:
        raise ValueError(
            f"Every group needs {min_group} patients with an outcome; {', '.join(small)}. Merge "
            "groups, name the others in groups=[...], or lower min_group."
        )
    attrition.check_events(keys)
    for key in covariates:
        why = f"{key} is missing (model with covariates only)"
        attrition.require(clinical[key].notna(), why)
    given = clinical.iloc[rows]
    result = curves.survival(ends.take(rows), compared, name=groupby, covariates=given)
    for note in result["notes"]:
        warnings.warn(note, stacklevel=2)
    params |= {"groups": order, "strata": strata, "measure": "HR"}
    record = {**result, "flow": attrition.table(), "params": params}
    _record.write(target, uns={key_added: record})
    return target if copy else None
