"""datasets.read_cohort: expression and outcome of patients, from tables as R writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, key_in
from scbert_cll.datasets import _tables
from scbert_cll.datasets._tables import Table, Unit


def read_cohort(
    expression: Table | None,
    clinical: Table,
    *,
    sample_key: str | None = None,
    time_key: str | None = None,
    event_key: str | None = None,
    entry_key: str | None = None,
    competing_key: str | None = None,
    unit: Unit = "years",
    event_values: Mapping[Any, int] | None = None,
    sep: str | None = None,
    transpose: bool = False,
    sha256: Mapping[str, str] | None = None,
) -> AnnData:
    """Read a cohort: the expression of its patients and what became of them.

    Samples are joined by name, never by position, and who is in one table only is left out and
    told. Times become years; a column whose times cannot be in `unit` is refused, and so is an
    event that is not plainly 0 or 1. No value is filled in: a protein that was not measured and an
    outcome that is not known stay NaN.

    Parameters
    ----------
    expression
        Genes × samples, names of genes in the first column and of samples in the first line, as R's
        ``write.csv`` has it; comma, tab or semicolon, compressed or not, in UTF-8, UTF-16 or
        Windows-1252; also as ``write.csv2`` and Excel have it (decimal commas, a first line
        ``sep=;``); or a DataFrame. None: patients without expression, and no genes.
    clinical
        Patients × columns, likewise.
    sample_key
        Column of `clinical` with the names of the samples; the first one if not given (the index of
        a DataFrame).
    time_key, event_key
        Columns of the outcome: time to event or end of follow-up, and whether the event came. An
        event without a time is a yes or no.
    entry_key
        Column of the time at which a patient came under observation, counted from the same day as
        `time_key` (delayed entry).
    competing_key
        Column of an event that makes the other impossible, such as death before treatment.
    unit
        Unit of the times in the table.
    event_values
        What the words of the file mean, e.g. ``{"dead": 1, "alive": 0}``, for `event_key`, and for
        `competing_key` unless it is plainly 0/1. Without it 0/1, TRUE/FALSE and T/F are read; R's
        1/2 is refused, since 1 may be meant either way.
    sep
        What separates columns, if the first line does not tell.
    transpose
        The expression is samples × genes.
    sha256
        Checksums that files must have, by name of file.

    Returns
    -------
    AnnData of patients × genes, float64 as in the file, in the order of the expression table, with

    ``obs``
        The columns of the clinical table; words are categories, yes and no are 0 and 1 where some
        are missing, and a ``/`` in a name is ``_``. The columns of time are in years, those of
        events 0 and 1 (int64, or float64 with NaN).
    ``uns['cohort']`` : dict
        ``n_samples``, ``only_expression`` and ``only_clinical`` (names), ``files`` (table, file,
        sha256), ``outcome`` (with `event_key`: ``n`` with an outcome, ``n_events``; with `time_key`
        also ``n_time_zero``, ``median`` and ``maximum`` in years), ``params``.

    Raises
    ------
    KeyError
        A column is not there.
    ValueError
        Samples, genes or columns are named twice; no sample is in both tables; values are no
        numbers; times are negative or not in `unit`; an event is not 0 or 1; a patient leaves
        before entering, or has both events; a checksum differs; numbers that may have decimal
        commas or thousands.

    Warns
    -----
    UserWarning
        A file is not UTF-8, and read as Windows-1252; samples are in one table only; values cannot
        be logarithms (none is transformed).

    Examples
    --------
    >>> import pandas as pd
    >>> rna = pd.DataFrame({"P1": [5.1, 7.0], "P2": [6.3, 6.8]}, index=["ITGA4", "CD38"])
    >>> seen = pd.DataFrame({"days": [700, 1461], "state": ["treated", "watched"]}, index=["P1", "P2"])
    >>> words = {"treated": 1, "watched": 0}
    >>> adata = read_cohort(rna, seen, time_key="days", event_key="state", unit="days", event_values=words)
    >>> adata.obs.round(2).to_dict("list")
    {'days': [1.92, 4.0], 'state': [1, 0]}
    """
    choice(unit, _tables.UNITS, "unit")
    _checks.cohorts.outcome_keys(time_key, event_key, entry_key, competing_key)
    meanings = _checks.cohorts.event_meanings(event_values)
    tables, files = _tables.read_tables(
        {"expression": expression, "clinical": clinical}, sep=sep, sha256=sha256
    )
    seen = _tables.named_rows(tables["clinical"], sample_key, "clinical")
    keys = {
        "time_key": time_key,
        "event_key": event_key,
        "entry_key": entry_key,
        "competing_key": competing_key,
    }
    for key in filter(None, keys.values()):
        key_in(key, seen, "the clinical table")
    values = None
    if "expression" in tables:
        values = _tables.expression_matrix(tables["expression"], transpose=transpose)
        _checks.cohorts.shared_samples(
            values.index, values.columns, seen, sample_key or "the first column"
        )
    obs = _tables.columns_of_obs(seen)
    for key, column in _outcome(seen, keys, unit, meanings).items():
        obs[key.replace("/", "_")] = column
    adata, record = _tables.joined(values, obs)
    _tables.tell_scale(adata, "the expression table")
    params = {name: value for name, value in keys.items() if value} | {
        "unit": unit,
        "transpose": transpose,
    }
    outcome = _summary(obs.loc[adata.obs_names], time_key, event_key)
    adata.uns[_keys.COHORT] = record | {"files": files, "outcome": outcome, "params": params}
    return adata


def _outcome(
    seen: pd.DataFrame,
    keys: Mapping[str, str | None],
    unit: Unit,
    meanings: Mapping[str, int] | None,
) -> dict[str, pd.Series]:
    """The columns of the outcome in years and in 0 and 1."""
    time_key, event_key, entry_key, competing_key = keys.values()
    found: dict[str, pd.Series] = {}
    if event_key:
        found[event_key] = _checks.cohorts.events(seen[event_key], event_key, meanings)
    if time_key:
        found |= _years(seen, time_key, entry_key, unit)
    if event_key and competing_key:
        found[competing_key] = _competing(seen[competing_key], competing_key, meanings)
        _checks.cohorts.one_end(found[event_key], found[competing_key], event_key, competing_key)
    return {
        key: column if key in (time_key, entry_key) else _tables.yes_or_no(column)
        for key, column in found.items()
    }


def _years(
    seen: pd.DataFrame, time_key: str, entry_key: str | None, unit: Unit
) -> dict[str, pd.Series]:
    """Time and entry, which are on one clock."""
    time = _checks.cohorts.times(seen[time_key], time_key)
    if entry_key is None:
        _checks.cohorts.plausible_times(time, time_key, unit)
        return {time_key: time / _checks.cohorts.PER_YEAR[unit]}
    entry = _checks.cohorts.times(seen[entry_key], entry_key)
    _checks.cohorts.in_order(entry, time, entry_key, time_key)
    _checks.cohorts.plausible_times(time, time_key, unit, entry=entry)
    return {
        key: column / _checks.cohorts.PER_YEAR[unit]
        for key, column in ((time_key, time), (entry_key, entry))
    }


def _competing(column: pd.Series, key: str, meanings: Mapping[str, int] | None) -> pd.Series:
    """Plain 0 and 1 are what they are, whatever the words of the other event mean."""
    return _checks.cohorts.events(
        column, key, None if _checks.cohorts.are_plain(column) else meanings
    )


def _summary(obs: pd.DataFrame, time_key: str | None, event_key: str | None) -> dict[str, float]:
    """How many patients have an outcome, and how long they were seen."""
    keys = [key.replace("/", "_") for key in (event_key, time_key) if key]
    known = obs[keys].dropna()
    if not event_key:
        return {}
    found: dict[str, float] = {"n": len(known), "n_events": int(known[keys[0]].sum())}
    if time_key and len(known):
        time = known[keys[1]]
        found |= {
            "n_time_zero": int((time == 0).sum()),
            "median": float(time.median()),
            "maximum": float(time.max()),
        }
    return found
