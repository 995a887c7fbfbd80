"""datasets.read_cohort: expression and outcome of patients, from tables as R writes them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in
from scbert_cll._survival import units
from scbert_cll._survival.outcome import distinct, entry_before_end, one_end
from scbert_cll._survival.units import Unit
from scbert_cll.datasets import _tables
from scbert_cll.datasets._tables import Meanings, Table, events


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
    event_values: Mapping[str, int] | Mapping[int, int] | None = None,
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
    >>> seen = pd.DataFrame({"days": [700, 1461], "state": ["treated", "watched"]})
    >>> seen.index = ["P1", "P2"]
    >>> keys = {"time_key": "days", "event_key": "state", "unit": "days"}
    >>> adata = read_cohort(rna, seen, **keys, event_values={"treated": 1, "watched": 0})
    >>> adata.obs.round(2).to_dict("list")
    {'days': [1.92, 4.0], 'state': [1, 0]}
    """
    choice(unit, list(units.PER_YEAR), "unit")
    names = {"time_key": time_key, "event_key": event_key}
    names |= {"entry_key": entry_key, "competing_key": competing_key}
    keys = {name: key for name, key in names.items() if key}
    _check_keys(keys)
    meanings = _tables.event_meanings(event_values)
    tables, files = _tables.read_tables(
        {"expression": expression, "clinical": clinical}, sep=sep, sha256=sha256
    )
    seen = _tables.named_rows(tables["clinical"], sample_key, "clinical")
    for key in keys.values():
        key_in(key, seen, "the clinical table")
    values = None
    if "expression" in tables:
        values = _tables.expression_matrix(tables["expression"], transpose=transpose)
        _tables.check_shared(values, seen, sample_key or "the first column")
    obs = _tables.columns_of_obs(seen)
    for key, column in _outcome(seen, keys, unit, meanings).items():
        obs[_tables.column_name(key)] = column
    adata, record = _tables.joined(values, obs)
    params = keys | {"unit": unit, "transpose": transpose}
    outcome = _summary(obs.loc[adata.obs_names], keys)
    record |= {"files": files, "outcome": outcome, "params": params}
    adata.uns[_keys.COHORT] = record
    return adata


def _check_keys(keys: Mapping[str, str]) -> None:
    """Refuse columns without those that they belong to."""
    if "time_key" in keys and "event_key" not in keys:
        raise ValueError(
            f"time_key={keys['time_key']!r} needs event_key=: a time alone does not say whether "
            "the event came or was not awaited."
        )
    for name in ("entry_key", "competing_key"):
        if name in keys and "time_key" not in keys:
            raise ValueError(f"{name}={keys[name]!r} needs time_key= and event_key=.")
    distinct(list(keys.values()), "The columns of the outcome")


def _outcome(
    seen: pd.DataFrame, keys: Mapping[str, str], unit: Unit, meanings: Meanings | None
) -> dict[str, pd.Series[float]]:
    """The columns of the outcome in years and in 0 and 1."""
    columns = {name: seen[key] for name, key in keys.items()}
    outcome: dict[str, pd.Series[float]] = {}
    if "event_key" in columns:
        outcome["event_key"] = events(columns["event_key"], keys["event_key"], meanings)
    for name in ("time_key", "entry_key"):
        if name in columns:
            outcome[name] = units.times(columns[name], keys[name])
    if "time_key" in outcome:
        time, entry = outcome["time_key"], outcome.get("entry_key")
        if entry is not None:
            entry_before_end(entry, time)
        units.check_unit(time, unit, entry=entry)
    if "competing_key" in columns:
        column = columns["competing_key"]
        # they are just that, whatever the other's words mean
        if _tables.are_plain(column):
            meanings = None
        competing = events(column, keys["competing_key"], meanings)
        one_end(outcome["event_key"], competing)
        outcome["competing_key"] = competing
    for name, column in outcome.items():
        is_time = name in ("time_key", "entry_key")
        years = column / units.PER_YEAR[unit]
        outcome[name] = years if is_time else _tables.yes_or_no(column)
    return {keys[name]: column for name, column in outcome.items()}


def _summary(obs: pd.DataFrame, keys: Mapping[str, str]) -> dict[str, float]:
    """How many patients have an outcome, and how long they were followed."""
    names = [keys[name] for name in ("event_key", "time_key") if name in keys]
    if not names:
        return {}
    complete = obs[list(map(_tables.column_name, names))].dropna()
    summary: dict[str, float] = {"n": len(complete)}
    summary["n_events"] = int(complete.iloc[:, 0].sum())
    if len(names) < 2 or complete.empty:
        return summary
    time = complete.iloc[:, 1]
    of_time = {"n_time_zero": int((time == 0).sum()), "median": float(time.median())}
    return summary | of_time | {"maximum": float(time.max())}
