"""The record of a signature in ``adata.uns``: how it is made, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _names, _record
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.families import family
from scbert_cll._signature.procedure import find, selected_names
from scbert_cll._signature.weights import check_not_empty

type Record = dict[str, Any]  # tables and plain values by name

_LEAST_AUROC: Final = 0.75  # in held-out donors, of a network that may take genes away


def of(data: PseudobulkData, gene: str | None) -> Record:
    """Tables and plain values of a signature, with the family of each gene."""
    signature = find(data)
    genes, empty = signature.genes, ("samples", "expression", "differences", "arms")
    tables = dict.fromkeys(empty, pd.DataFrame())
    if len(genes):
        genes = genes.assign(family=family(pd.Index(genes["gene"]), gene))
        data = compared(data, signature.facts)
        design, tested = data.design, data.counts.tested.genes
        names = (design.table[column].tolist() for column in ("donor", "class"))
        expression = pd.DataFrame(design.log.T, tested, _names.columns_of(*names))
        tables |= {"samples": design.table, "expression": expression}
        tables["differences"] = design.differences.T.set_axis(tested)
    tables |= {"genes": genes, "donors": data.n_cells}
    facts = {"reason": signature.reason, "n_selected": len(signature.selected)}
    return tables | facts | signature.facts


def compared(data: PseudobulkData, facts: Mapping[str, Any]) -> PseudobulkData:
    """What a signature is of: where its parts disagree, donors with both classes only."""
    joined = data.limits.design != "both" or "n_donors_within" in facts
    return data if joined else data.inside


def join_network(record: Record, columns: pd.DataFrame, *, veto: bool) -> None:
    """Put a network's evidence beside each gene; with `veto`, without the genes it takes away."""
    genes = record["genes"].join(columns)
    if veto:
        if not record["auroc_within"] >= _LEAST_AUROC:
            raise ValueError(
                f"veto=True needs an AUROC of {_LEAST_AUROC} within held-out donors; the network's "
                f"is {record['auroc_within']:.2f}. Leave veto out: the network's opinion stays "
                "beside each gene."
            )
        n = int(genes["selected"].sum())
        genes["selected"] &= genes["attribution_agrees"]
        if n and not genes["selected"].any():
            record["reason"] = (
                f"{n} genes pass the test and the linear classifier, and the network agrees on "
                "none of them"
            )
        genes = genes.sort_values("selected", ascending=False, kind="stable")
        genes = genes.reset_index(drop=True)
    record |= {"genes": genes, "n_selected": int(genes["selected"].sum())}


def variants(genes: pd.DataFrame, alpha: float, *, veto: bool) -> pd.DataFrame:
    """Number of genes without those that differ whatever is asked, and without the marker's own."""
    agreed = genes["agrees"] & genes["attribution_agrees"] if veto else genes["agrees"]
    is_marker, is_other = genes["family"] == "marker", genes["family"] == ""
    parts = {
        "all genes": genes["gene"].notna(),
        "without donor and technical genes": is_other | is_marker,
        "without the marker's gene": ~is_marker,
        "without both": is_other,
    }
    rows = []
    for name, inside in parts.items():
        part = genes[inside]
        selected = agreed[inside] & (stats.false_discovery_control(part["p"]) < alpha)
        text = ", ".join(part.loc[selected, "gene"])
        rows.append((name, len(part), int(selected.sum()), text))
    return pd.DataFrame(rows, columns=["arm", "n_tested", "n_selected", "genes"])


def read(adata: AnnData, key: str, hint: str = "") -> Mapping[str, Any]:
    """The record that tl.signature wrote."""
    record = _record.read(adata, key, "tl.signature", hint=hint, bare=True)
    genes = record.get("genes") if isinstance(record, Mapping) else None
    if not isinstance(genes, pd.DataFrame):
        why = "was not written by tl.signature: it has no table 'genes'"
        raise ValueError(f"adata.uns[{key!r}] {why}.")
    return record


def selected_genes(adata: AnnData, key: str, verb: str, remedy: str) -> pd.DataFrame:
    """Rows of the selected genes, to `verb` something with; at least one."""
    record = read(adata, key, f"Or {remedy}.")
    table: pd.DataFrame = record["genes"]
    reason, n = str(record.get("reason", "")), len(selected_names(table))
    check_not_empty(n, reason, f"there is nothing to {verb}; {remedy}")
    return table[table["selected"]]
