"""Criteria of the genes: a chromosome, families, other cells, known sets, reference genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scbert_cll._signature.families import family
from scbert_cll._signature.procedure import selected_names
from scbert_cll._signature.report import criteria, reference
from scbert_cll._signature.report.criteria import Criterion, verdict
from scbert_cll._signature.report.enrichment import over_representation
from scbert_cll._signature.report.ranking import Ranking

_NOT_TESTED = "none of these genes was tested"
_TIERS = ("T1", "T2")
_N_DRAWS = 1000  # of random genes beside the reference genes


@dataclass(frozen=True)
class Content:
    """Genes of a subject, among all that were tested."""

    subject: str
    genes: list[str]
    tested: pd.Index

    def on_chromosome(self, chromosome: pd.Series | None, number: str = "12") -> Criterion:
        """Genes on a chromosome, whether it is called 12 or chr12."""
        if chromosome is None:
            why = "no such column of adata.var: name it with chromosome_key="
            return Criterion(criteria.CHROMOSOME, self.subject, note=why)
        names = chromosome.astype(str).str.lower().str.removeprefix("chr").str.removesuffix(".0")
        genes = [str(gene) for gene in chromosome.index[names == number]]
        return self._not_frequent(criteria.CHROMOSOME, genes, "trisomy 12 raises all of its genes")

    def in_families(self) -> Criterion:
        """Immunoglobulin, HLA, sex, mitochondrial and ribosomal genes together."""
        families = pd.Series(family(self.tested, None), index=self.tested)
        counts = families[self.genes].value_counts().drop("", errors="ignore")
        note = ", ".join(f"{n} {name}" for name, n in counts.items())
        genes = [str(gene) for gene in families.index[families != ""]]
        return self._not_frequent(criteria.FAMILIES, genes, note)

    def of_other_cells(self) -> Criterion:
        """Genes of T cells, monocytes, macrophages and stroma, which B cells should not have."""
        listed = reference.genes()
        foreign = listed.loc[listed["tier"] == "contamination", "gene"]
        if not self.tested.isin(list(foreign)).any() or not self.genes:
            return Criterion(criteria.CONTAMINATION, self.subject, note=_NOT_TESTED)
        genes = [gene for gene in foreign if gene in set(self.genes)]
        row = Criterion(criteria.CONTAMINATION, self.subject, len(genes), note=", ".join(genes))
        return row._replace(rule="no gene of theirs", passed=verdict(not genes))

    def in_sets(self, sets: Mapping[str, Sequence[str]]) -> tuple[Criterion, pd.DataFrame]:
        """Over-represented sets: how many, and all in a table.

        There is no rule, since a programme may well be one of them.
        """
        table = over_representation(self.genes, self.tested, sets)
        clear = table.loc[table["q"] < criteria.LEVEL, "set"].tolist()
        note = ", ".join(clear[:3]) + (f" and {len(clear) - 3} more" if len(clear) > 3 else "")
        table.insert(0, "subject", self.subject)
        row = Criterion(criteria.SETS, self.subject, len(clear), note=note)
        return row._replace(passed=criteria.INFORMATION), table

    def _not_frequent(self, name: str, genes: Sequence[str], note: str) -> Criterion:
        """Genes that should be as frequent among the subject's as among all that were tested."""
        row = over_representation(self.genes, self.tested, {name: genes}).iloc[0]
        if not row["size"] or not self.genes:
            return Criterion(name, self.subject, note=_NOT_TESTED)
        share, expected = row["n"] / len(self.genes), row["size"] / len(self.tested)
        rule, passed = "p ≥ 0.05: not more than by chance", verdict(row["p"] >= criteria.LEVEL)
        result = Criterion(name, self.subject, share, null=expected, p=row["p"], note=note)
        return result._replace(rule=rule, passed=passed)


def recovers_reference(subject: str, score: pd.Series, rng: np.random.Generator) -> Criterion:
    """Area under the curve of the genes reported with CD49d, trisomy 12 or NOTCH1."""
    listed = reference.genes()
    wanted = listed.loc[listed["tier"].isin(_TIERS), "gene"]
    recovery = reference.recovery(score, wanted, _N_DRAWS, rng)
    if np.isnan(recovery.auroc):
        note = "none of the reference genes was tested"
        return Criterion(criteria.REFERENCE, subject, note=note)
    note = f"{recovery.n} of {len(wanted)} genes are there"
    row = Criterion(criteria.REFERENCE, subject, recovery.auroc, null=0.5, p=recovery.p, note=note)
    return row._replace(passed=criteria.INFORMATION)


def content(
    genes: pd.DataFrame,
    rankings: Mapping[str, Ranking],
    k: int,
    chromosome: pd.Series | None,
    sets: Mapping[str, list[str]] | None,
    rng: np.random.Generator,
) -> tuple[list[Criterion], dict[str, pd.DataFrame]]:
    """Criteria of the genes of every subject, the first `k` of a ranking; sets in a table."""
    tested = pd.Index(genes["gene"], dtype=object)
    scores = {criteria.SIGNATURE: pd.Series(genes["t"].abs().to_numpy(), tested)}
    scores |= {
        name: pd.Series(ranking.score(), ranking.genes).reindex(tested)
        for name, ranking in rankings.items()
    }
    subjects = [
        Content(name, score.nlargest(k).index.tolist(), tested) for name, score in scores.items()
    ]
    subjects[0] = Content(criteria.SIGNATURE, selected_names(genes), tested)
    rows = [subject.on_chromosome(chromosome) for subject in subjects]
    rows += [subject.in_families() for subject in subjects]
    rows += [subject.of_other_cells() for subject in subjects]
    enrichment = {}
    if sets is not None:
        numbers, tables = zip(*(subject.in_sets(sets) for subject in subjects), strict=True)
        rows += numbers
        enrichment["enrichment"] = pd.concat(tables, ignore_index=True).rename(index=str)
    rows += [recovers_reference(name, score, rng) for name, score in scores.items()]
    return rows, enrichment
