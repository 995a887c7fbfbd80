"""Gates on which genes there are: one chromosome, families that differ whatever is asked, known sets, and reference genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scbert_cll._signature.families import family
from scbert_cll._signature.report import reference as report_reference
from scbert_cll._signature.report.criteria import (
    CONTAMINATION,
    FAMILIES,
    LEVEL,
    REFERENCE,
    SETS,
    Gate,
    Numbers,
    not_run,
)
from scbert_cll._signature.report.enrichment import over_representation

_RULE = "p ≥ 0.05: not more than by chance"
_TIERS = ("T1", "T2")


def on_chromosome(chromosome: pd.Series, name: str = "12") -> list[str]:
    """Genes on a chromosome, whether it is called 12 or chr12."""
    called = chromosome.astype(str).str.lower().str.removeprefix("chr").str.removesuffix(".0")
    return [str(gene) for gene in chromosome.index[called == name]]


def apart(
    name: str,
    subject: str,
    chosen: Sequence[str],
    universe: pd.Index,
    genes: Sequence[str],
    note: str,
) -> Gate:
    """Genes that should not be more frequent among the chosen than among all that were tested."""
    found = over_representation(chosen, universe, {name: genes}).iloc[0]
    if not found["size"] or not len(chosen):
        return not_run(name, [subject], "none of these genes was tested")[0]
    numbers = Numbers(found["n"] / len(chosen), null=found["size"] / len(universe), p=found["p"])
    return Gate.of(name, subject, numbers, _RULE, passed=bool(found["p"] >= LEVEL), note=note)


def family_gate(subject: str, chosen: Sequence[str], universe: pd.Index) -> Gate:
    """Immunoglobulin, HLA, sex, mitochondrial and ribosomal genes together."""
    kinds = pd.Series(family(universe, None), index=universe)
    counts = kinds[list(chosen)].value_counts().drop("", errors="ignore")
    note = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    return apart(
        FAMILIES, subject, chosen, universe, [str(gene) for gene in kinds.index[kinds != ""]], note
    )


def contamination_gate(subject: str, chosen: Sequence[str], universe: pd.Index) -> Gate:
    """Genes of T cells, monocytes, macrophages and stroma, which leukaemic B cells should not have."""
    known = report_reference.genes()
    foreign = known.loc[known["tier"] == "contamination", "gene"]
    if not universe.isin(list(foreign)).any() or not len(chosen):
        return not_run(CONTAMINATION, [subject], "none of these genes was tested")[0]
    there = [gene for gene in foreign if gene in set(chosen)]
    return Gate.of(
        CONTAMINATION,
        subject,
        Numbers(float(len(there))),
        "no gene of theirs",
        passed=not there,
        note=", ".join(there),
    )


def set_gate(
    subject: str, chosen: Sequence[str], universe: pd.Index, sets: Mapping[str, Sequence[str]]
) -> tuple[Gate, pd.DataFrame]:
    """How many sets are over-represented, and which.

    No rule, since a programme may well be one of them.
    """
    table = over_representation(chosen, universe, sets)
    clear = table.loc[table["q"] < LEVEL, "set"].tolist()
    note = ", ".join(clear[:3]) + (f" and {len(clear) - 3} more" if len(clear) > 3 else "")
    table.insert(0, "subject", subject)
    return Gate.of(SETS, subject, Numbers(float(len(clear))), "", passed=None, note=note), table


def reference_gate(
    subject: str, ranking: pd.Series, n_draws: int, rng: np.random.Generator
) -> Gate:
    """Where the genes reported with CD49d, trisomy 12 or NOTCH1 are in a ranking."""
    known = report_reference.genes()
    wanted = known.loc[known["tier"].isin(_TIERS), "gene"]
    found = report_reference.recovery(ranking, wanted, n_draws, rng)
    if np.isnan(found.auroc):
        return not_run(REFERENCE, [subject], "none of the reference genes was tested")[0]
    note = f"{found.n} of {len(wanted)} genes are there"
    return Gate.of(
        REFERENCE, subject, Numbers(found.auroc, null=0.5, p=found.p), "", passed=None, note=note
    )
