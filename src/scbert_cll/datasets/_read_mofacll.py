"""datasets.read_mofacll: the patients of mofaCLL, from tables that the user has exported from R."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.datasets import _tables
from scbert_cll.datasets._tables import Table

_PATIENT: Final = "patientID"
_NAMES: Final = {"treatedAfter": "treated", "treatment": "treated_ever", "pretreat": "pretreated"}
_TIMES: Final = ("OS", "TTT", "TFT")
_EVENTS: Final = ("died", "treated", "treated_ever")
_PROTEIN: Final = ("name", "ensembl_gene_id", "hgnc_symbol")
_EXPORT: Final = "Export it from R as the docstring of datasets.read_mofacll says."


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
    .. [1] Lu et al. (2021), Multi-omics reveals clinically relevant proliferative drive associated with mTOR-MYC-OXPHOS activity in chronic lymphocytic
       leukemia, Nature Cancer 2:853, doi:10.1038/s43018-021-00216-6;
       https://github.com/lujunyan1118/mofaCLL.

    Examples
    --------
    >>> import pandas as pd
    >>> seen = pd.DataFrame({"patientID": ["H1", "H2"], "OS": [2.0, 4.0], "died": [True, False], "TTT": [2.0, 1.5], "treatedAfter": [False, True]})
    >>> adata = read_mofacll(seen, pd.DataFrame({"patientID": ["H1", "H2"], "IGHV": [1, 0]}))
    >>> adata.obs[["treated", "died_untreated", "IGHV"]].to_dict("list")
    {'treated': [0, 1], 'died_untreated': [1, 0], 'IGHV': ['mutated', 'unmutated']}
    """
    if expression is not None and proteome is not None:
        raise ValueError("Give expression or proteome, not both; read two objects.")
    sources = {"survival": survival, "genetics": genetics, "demographics": demographics}
    tables, files = _tables.read_tables(
        sources | {"expression": expression, "proteome": proteome}, sha256=sha256
    )
    clinical = {what: _patients(tables[what], what) for what in sources if what in tables}
    obs = _outcome(clinical["survival"])
    outcomes = list(obs.columns)
    clinical["survival"] = clinical["survival"].drop(columns=outcomes, errors="ignore")
    for what, table in clinical.items():
        more = _described(table)
        obs = obs.join(
            more.rename(columns={name: f"{name}_{what}" for name in more if name in obs})
        )
    if {"IGHV", "TTT", "treated"} <= set(obs):
        _checks.cohorts.ighv_direction(obs["IGHV"], obs["TTT"], obs["treated"])
    values, of_proteins = _values(tables)
    if values is not None:
        _checks.cohorts.shared_samples(values.index, values.columns, obs, _PATIENT)
    adata, record = _tables.joined(values, obs)
    _tables.tell_scale(adata, "the expression table")
    for name, column in of_proteins.get("var", {}).items():
        adata.var[name] = column
    others = {
        what: np.array(sorted(set(t.index) - set(obs.index)), dtype=object)
        for what, t in clinical.items()
    }
    record |= {"files": files, "outcomes": np.array(outcomes, dtype=object), "only_in": others}
    adata.uns[_keys.COHORT] = record | of_proteins.get("record", {})
    return adata


def _patients(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """One row per patient: of the column patientID, or of the first one."""
    table = _tables.named_rows(table, _PATIENT if _PATIENT in table else None, what)
    return table.rename(columns=_NAMES)


def _outcome(seen: pd.DataFrame) -> pd.DataFrame:
    """Times in years, events as 0 and 1, and death before treatment."""
    _checks.cohorts.has_columns(
        seen, ["TTT", "treated"] if "TTT" in seen else ["OS", "died"], "The survival table", _EXPORT
    )
    obs = pd.DataFrame(index=seen.index)
    for name in [name for name in seen if name in _TIMES]:
        obs[name] = _checks.cohorts.times(seen[name], name)
        _checks.cohorts.plausible_times(obs[name], name, "years")
    for name in [name for name in seen if name in _EVENTS]:
        obs[name] = _tables.yes_or_no(_checks.cohorts.events(seen[name], name, None))
    if {"treated", "died"} <= set(obs):
        known = obs["treated"].notna() & obs["died"].notna()
        untreated = (obs["treated"] == 0) & (obs["died"] == 1)
        obs["died_untreated"] = _tables.yes_or_no(untreated.astype(np.float64).where(known))
    return obs


def _described(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of patients; IGHV in words, and TP53 mutated or lost."""
    obs = _tables.columns_of_obs(table)
    if "IGHV" in obs:
        words = pd.CategoricalDtype(["mutated", "unmutated"], ordered=True)
        obs["IGHV"] = _checks.cohorts.ighv_words(table["IGHV"]).astype(words)
    if {"TP53", "del17p"} <= set(obs):
        both = pd.DataFrame(
            {name: _checks.cohorts.events(table[name], name, None) for name in ("TP53", "del17p")}
        )
        obs["TP53ab"] = _tables.yes_or_no(
            both.max(axis=1).where(both.notna().all(axis=1) | (both == 1).any(axis=1))
        )
    return obs


def _values(tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Patients × genes, and what there is to say of proteins."""
    if "proteome" in tables:
        return _proteins(tables["proteome"])
    if "expression" in tables:
        return _tables.expression_matrix(tables["expression"], transpose=False), {}
    return None, {}


def _proteins(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One protein per symbol: the one that is measured most often."""
    _checks.cohorts.has_columns(table, _PROTEIN, "The proteome", _EXPORT)
    patients = table.columns.drop(list(_PROTEIN))
    _checks.cohorts.sample_names(patients, "the proteome")
    values = pd.DataFrame(
        _checks.cohorts.expression_numbers(table[patients], "The proteome"), columns=patients
    )
    about = pd.DataFrame({name: table[name].to_numpy() for name in _PROTEIN})
    about["missing"], about["mean"] = values.isna().sum(axis=1), values.mean(axis=1)
    named = about[about["hgnc_symbol"].notna() & (about["hgnc_symbol"] != "")]
    best = named.sort_values(["missing", "mean"], ascending=[True, False], kind="stable")
    best = best.drop_duplicates("hgnc_symbol").sort_index()
    symbols = pd.Index(best["hgnc_symbol"].astype(str), dtype=object)
    taken = values.loc[best.index].T.set_axis(symbols, axis=1)
    columns = {
        name: best[of].fillna("").astype(str).to_numpy(dtype=object)
        for name, of in (("protein", "name"), ("ensembl", "ensembl_gene_id"))
    }
    record = {
        "no_symbol": about.loc[about.index.difference(named.index), "name"]
        .astype(str)
        .to_numpy(dtype=object),
        "other_proteins": named.loc[named.index.difference(best.index), "name"]
        .astype(str)
        .to_numpy(dtype=object),
    }
    return taken, {"var": columns, "record": record}
