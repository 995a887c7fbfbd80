"""Readers of cohorts: expression and outcome of patients, from tables as R writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._survival import units
from scbert_cll._survival.outcome import distinct, entry_before_end, one_end
from scbert_cll._survival.units import Unit
from scbert_cll.datasets import _tables
from scbert_cll.datasets._tables import Meanings, Record, Table, events, word_of

_PATIENT: Final = "patientID"
_NAMES: Final = {"treatedAfter": "treated", "treatment": "treated_ever", "pretreat": "pretreated"}
_TIMES: Final = ("OS", "TTT", "TFT")
_EVENTS: Final = ("died", "treated", "treated_ever")
_PROTEIN: Final = ("name", "ensembl_gene_id", "hgnc_symbol")
_STATUS: Final = ("mutated", "unmutated")
_IGHV: Final = dict.fromkeys(("1", "M", "MUTATED"), _STATUS[0]) | dict.fromkeys(
    ("0", "U", "UNMUTATED"), _STATUS[1]
)
_CLEARLY: Final = 1.96


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
    sources = {"expression": expression, "clinical": clinical}
    tables, files = _tables.read_tables(sources, sep=sep, sha256=sha256)
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
        if _tables.are_plain(column):  # 0 and 1 are just that, whatever the other's words mean
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


# ---- mofaCLL: tables that the user has exported from R


def read_mofacll(
    survival: Table,
    genetics: Table | None = None,
    *,
    demographics: Table | None = None,
    expression: Table | None = None,
    proteome: Table | None = None,
    sha256: Mapping[str, str] | None = None,
) -> AnnData:
    """Read the CLL patients of mofaCLL: outcome, genetics, and RNA or proteins if there are.

    The data are under the GPL and not part of this package; you export them from a copy of their
    repository [1]_. Times are in years there, and counted from the day of the sample, except `TFT`,
    which counts from diagnosis.

    Parameters
    ----------
    survival
        Table of patients: ``patientID, OS, died, TFT, treatment, TTT, treatedAfter``. A file, or a
        DataFrame.
    genetics
        Patients × alterations (0, 1, missing), with ``IGHV`` (1 is mutated) and ``methCluster``.
    demographics
        Further columns of patients: age, sex, ``pretreat``.
    expression
        Genes × patients, on a log scale (or DESeq2's variance-stabilised values).
    proteome
        Proteins × patients, log2: ``name, ensembl_gene_id, hgnc_symbol``, then patients. Instead of
        `expression`.
    sha256
        Checksums that files must have, by name of file.

    Returns
    -------
    AnnData of patients × genes (none without `expression` or `proteome`), with

    ``obs['TTT'], obs['treated'], obs['died_untreated']``
        Time to (next) treatment from the sample, in years; whether it came; whether death came
        instead.
    ``obs['OS'], obs['died']``
        Overall survival from the sample, in years.
    ``obs['TFT'], obs['treated_ever']``
        Time from diagnosis to the first treatment, in years, and whether there ever was one.
        **Never a covariate of** `TTT`: it was recorded afterwards and knows the outcome (of 131
        patients who were treated, 129 have it, the others a gap; of those who were not treated, 10
        of 129). It does not say who was treated before the sample: that is `pretreated`, if the
        demographics have it.
    ``obs['IGHV']`` : categorical, mutated < unmutated
        And a column of 0 and 1, NaN where it was not measured, for each alteration. ``TP53ab`` is a
        mutation of TP53 or del17p: 1 if one of them is there, 0 if both are known not to be.
    ``var['protein'], var['ensembl']``
        With `proteome`: genes are symbols. Of several proteins of a symbol the one with the fewest
        missing values is taken, then the most abundant; proteins without a symbol are left out. A
        protein that was not measured is NaN, and is more often missing where there is little of it.
    ``uns['cohort']`` : dict
        As of :func:`~scbert_cll.datasets.read_cohort`, but without ``outcome`` and ``params``;
        ``outcomes`` (the columns that belong to the outcome) and ``only_in`` (patients of another
        table without an outcome); with `proteome` also ``no_symbol`` and ``other_proteins``.

    Raises
    ------
    KeyError
        A table lacks its columns.
    ValueError
        Values are not what they should be, see :func:`~scbert_cll.datasets.read_cohort`; or
        patients with mutated IGHV are clearly treated earlier, so its words are exchanged.

    Warns
    -----
    UserWarning
        Patients have an outcome or expression, but not both; values cannot be logarithms.

    Notes
    -----
    In R, in a copy of the repository (each file holds one object)::

        out <- function(file, to, ...) write.csv(get(load(file)), to, ...)
        out("data/survival.RData", "survival.csv", row.names = FALSE)
        out("data/gene.RData", "genetics.csv")
        out("data/demographic.RData", "demographics.csv", row.names = FALSE)

    Tables of BloodCancerMultiOmics2017 have the same outcome as ``T5, treatedAfter`` (TTT) and
    ``T6, died`` (OS): rename these two.

    References
    ----------
    .. [1] Lu et al. (2021), Multi-omics reveals clinically relevant proliferative drive associated
       with mTOR-MYC-OXPHOS activity in chronic lymphocytic leukemia, Nature Cancer 2:853,
       doi:10.1038/s43018-021-00216-6;
       https://github.com/lujunyan1118/mofaCLL.

    Examples
    --------
    >>> import pandas as pd
    >>> seen = pd.DataFrame({"patientID": ["H1", "H2"], "OS": [2.0, 4.0], "TTT": [2.0, 1.5]})
    >>> seen = seen.assign(died=[True, False], treatedAfter=[False, True])
    >>> adata = read_mofacll(seen, pd.DataFrame({"patientID": ["H1", "H2"], "IGHV": [1, 0]}))
    >>> adata.obs[["treated", "died_untreated", "IGHV"]].to_dict("list")
    {'treated': [0, 1], 'died_untreated': [1, 0], 'IGHV': ['mutated', 'unmutated']}
    """
    if expression is not None and proteome is not None:
        raise ValueError("Give expression or proteome, not both; read two objects.")
    sources = {"survival": survival, "genetics": genetics, "demographics": demographics}
    matrices = {"expression": expression, "proteome": proteome}
    tables, files = _tables.read_tables(sources | matrices, sha256=sha256)
    present = [role for role in sources if role in tables]
    clinical = {role: _patients(tables[role], role) for role in present}
    obs = _outcome_of_mofacll(clinical["survival"])
    outcomes = list(obs.columns)
    clinical["survival"] = clinical["survival"].drop(columns=outcomes, errors="ignore")
    for role, table in clinical.items():
        columns = _described(table)
        renamed = {name: f"{name}_{role}" for name in columns if name in obs}
        obs = obs.join(columns.rename(columns=renamed))
    if {"IGHV", "TTT", "treated"} <= set(obs):
        _check_ighv(obs[["IGHV", "TTT", "treated"]])
    values: pd.DataFrame | None = None
    record: Record = {}
    var = None
    if "proteome" in tables:
        values, var, record = _proteins(tables["proteome"])
    elif "expression" in tables:
        values = _tables.expression_matrix(tables["expression"])
    if values is not None:
        _tables.check_shared(values, obs, _PATIENT)
    adata, of_samples = _tables.joined(values, obs)
    if var is not None:
        adata.var = var
    record["only_in"] = {
        role: np.array(sorted(set(table.index) - set(obs.index)), dtype=object)
        for role, table in clinical.items()
    }
    record |= {"files": files, "outcomes": np.array(outcomes, dtype=object)}
    adata.uns[_keys.COHORT] = record | of_samples
    return adata


def _patients(table: pd.DataFrame, role: str) -> pd.DataFrame:
    """One row per patient: of the column patientID, or of the first one."""
    table = _tables.named_rows(table, _PATIENT if _PATIENT in table else None, role)
    return table.rename(columns=_NAMES)


def _outcome_of_mofacll(seen: pd.DataFrame) -> pd.DataFrame:
    """Times in years, events as 0 and 1, and death before treatment."""
    needed = ["TTT", "treated"] if "TTT" in seen else ["OS", "died"]
    _check_columns(seen, needed, "survival table")
    obs = pd.DataFrame(index=seen.index)
    for name in seen.columns[seen.columns.isin(_TIMES)]:
        obs[name] = units.times(seen[name], name)
        units.check_unit(obs[name], "years")
    for name in seen.columns[seen.columns.isin(_EVENTS)]:
        obs[name] = _tables.yes_or_no(events(seen[name], name))
    if {"treated", "died"} <= set(obs):
        has_both = obs[["treated", "died"]].notna().all(axis=1)
        untreated = ((obs["treated"] == 0) & (obs["died"] == 1)).astype(np.float64)
        obs["died_untreated"] = _tables.yes_or_no(untreated.where(has_both))
    return obs


def _check_columns(table: pd.DataFrame, needed: Collection[str], what: str) -> None:
    if missing := [name for name in needed if name not in table]:
        raise KeyError(
            f"The {what} has no column {listed(missing)}; it has {listed(table.columns, 12)}. "
            "Export it from R as the docstring of datasets.read_mofacll says."
        )


def _described(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of patients; IGHV in words, and TP53 mutated or lost."""
    obs = _tables.columns_of_obs(table)
    if "IGHV" in obs:
        words = table["IGHV"].dropna().astype(object).map(word_of).str.upper()
        if unknown := sorted(set(words) - set(_IGHV)):
            raise ValueError(
                f"IGHV must be 1 (mutated) or 0 (unmutated), or M and U; found {listed(unknown)}."
            )
        status = pd.CategoricalDtype(list(_STATUS), ordered=True)
        obs["IGHV"] = words.map(_IGHV).reindex(table.index).astype(status)
    losses = "TP53", "del17p"
    if set(losses) <= set(obs):
        both = pd.concat([events(table[name], name) for name in losses], axis=1)
        is_certain = both.notna().all(axis=1) | (both == 1).any(axis=1)
        obs["TP53ab"] = _tables.yes_or_no(both.max(axis=1).where(is_certain))
    return obs


def _check_ighv(outcome: pd.DataFrame) -> None:
    """Patients with mutated IGHV are treated later.

    The opposite, and clearly so, is a table with its words exchanged.
    """
    sums = outcome.dropna().groupby("IGHV", observed=False).sum()
    if (sums <= 0).any(axis=None):
        return
    rate, n = sums["treated"] / sums["TTT"], sums["treated"]
    ratio = rate["mutated"] / rate["unmutated"]
    if np.log(ratio) / np.sqrt((1 / n).sum()) > _CLEARLY:
        raise ValueError(
            f"IGHV looks exchanged: patients called mutated are treated {ratio:.1f} times as often "
            f"a year as the unmutated ({n['mutated']:.0f} and {n['unmutated']:.0f} events), and "
            "they are known to be treated later. In mofaCLL 1 is mutated."
        )


def _proteins(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, Record]:
    """Patients × symbols, one protein of each, the one that is measured most often; and its names.

    From proteins × (name, Ensembl id, symbol, patients). Also the names of proteins without a
    symbol, and of those that are measured less.
    """
    _check_columns(table, _PROTEIN, "proteome")
    patients = table.columns.drop(list(_PROTEIN))
    _tables.check_samples(patients, "the proteome")
    numbers = _tables.expression_numbers(table[patients], "The proteome")
    values = pd.DataFrame(numbers, columns=patients)
    about = table[list(_PROTEIN)].reset_index(drop=True)
    about = about.assign(missing=values.isna().sum(axis=1), mean=values.mean(axis=1))
    named = about[about["hgnc_symbol"].notna() & (about["hgnc_symbol"] != "")]
    best = named.sort_values(["missing", "mean"], ascending=[True, False])
    best = best.drop_duplicates("hgnc_symbol").sort_index()
    symbols = pd.Index(best["hgnc_symbol"].astype(str), dtype=object)
    var = best[["name", "ensembl_gene_id"]].fillna("").astype(str).astype(object)
    var = var.set_axis(["protein", "ensembl"], axis=1).set_axis(symbols, axis=0)
    names = about["name"].astype(str)
    no_symbol = names[about.index.difference(named.index)].to_numpy(dtype=object)
    others = names[named.index.difference(best.index)].to_numpy(dtype=object)
    record: Record = {"no_symbol": no_symbol, "other_proteins": others}
    return values.loc[best.index].T.set_axis(symbols, axis=1), var, record
