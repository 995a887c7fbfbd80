"""Criteria of the genes: a chromosome, families, other cells, known sets, reference genes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._checks.words import listed
from scbert_cll._gene_names.resolver import in_data
from scbert_cll._gene_names.species import species_of
from scbert_cll._signature.families import family
from scbert_cll._signature.procedure import selected_names
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, verdict
from scbert_cll._signature.report.ranking import Ranking

_NOT_TESTED = "none of these genes was tested"
_TIERS = ("T1", "T2")


class Chosen(NamedTuple):
    """Genes that a subject chose, and all that it could have chosen."""

    subject: str
    genes: list[str]
    tested: pd.Index


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
    for name, ranking in rankings.items():
        scores[name] = pd.Series(ranking.score(), ranking.genes).reindex(tested)
    subjects = {name: scores[name].nlargest(k).index.tolist() for name in scores}
    subjects[criteria.SIGNATURE] = selected_names(genes)
    families = pd.Series(family(tested, None), index=tested)
    listed_genes = reference_genes()
    listed_genes["gene"] = in_data(listed_genes["gene"], tested)
    reference = listed_genes.groupby("tier")["gene"].agg(list)
    wanted = [gene for tier in _TIERS for gene in reference[tier]]
    chosen = [Chosen(name, names, tested) for name, names in subjects.items()]
    rows = [_on_chromosome(c, chromosome) for c in chosen]
    rows += [_in_families(c, families) for c in chosen]
    rows += [_of_other_cells(c, reference["contamination"]) for c in chosen]
    tables = {}
    if sets is not None:
        sets_of = {c.subject: over_representation(c.genes, tested, sets) for c in chosen}
        rows += [_in_sets(name, table) for name, table in sets_of.items()]
        table = pd.concat(sets_of, names=["subject"]).reset_index("subject")
        tables["enrichment"] = table.reset_index(drop=True).rename(index=str)
    rows += [_recovers(name, scores[name], wanted, rng) for name in subjects]
    return rows, tables


def _on_chromosome(chosen: Chosen, chromosome: pd.Series | None) -> Criterion:
    """Genes on chromosome 12, whether it is called 12 or chr12."""
    row = Criterion(criteria.CHROMOSOME, chosen.subject)
    if chromosome is None:
        why = "no such column of adata.var: name it with chromosome_key="
        return row._replace(note=why)
    if species_of(chosen.tested) == "mouse":
        return row._replace(note="trisomy 12 is of man, and these are genes of the mouse")
    names = chromosome.astype(str).str.lower()
    names = names.str.removeprefix("chr").str.removesuffix(".0")
    row = row._replace(note="trisomy 12 raises all of its genes")
    return _not_frequent(row, chosen, chromosome.index[names == "12"])


def _in_families(chosen: Chosen, families: pd.Series) -> Criterion:
    """Immunoglobulin, HLA, sex, mitochondrial and ribosomal genes together."""
    counts = families[chosen.genes].value_counts().drop("", errors="ignore")
    note = ", ".join(f"{n} {name}" for name, n in counts.items())
    row = Criterion(criteria.FAMILIES, chosen.subject, note=note)
    return _not_frequent(row, chosen, families.index[families != ""])


def _not_frequent(row: Criterion, chosen: Chosen, genes: Iterable[str]) -> Criterion:
    """Genes that should be as frequent among the chosen as among all that were tested."""
    _, names, tested = chosen
    test = over_representation(names, tested, {row.gate: genes}).iloc[0]
    if not test["size"] or not names:
        return row._replace(note=_NOT_TESTED)
    share, expected, p = test["n"] / len(names), test["size"] / len(tested), test["p"]
    rule, passed = "p ≥ 0.05: not more than by chance", verdict(p >= criteria.LEVEL)
    return row._replace(value=share, null=expected, p=p, rule=rule, passed=passed)


def _of_other_cells(chosen: Chosen, foreign: list[str]) -> Criterion:
    """Genes of T cells, monocytes, macrophages and stroma, which B cells should not have."""
    row = Criterion(criteria.CONTAMINATION, chosen.subject, note=_NOT_TESTED)
    if not chosen.tested.isin(foreign).any() or not chosen.genes:
        return row
    genes = [gene for gene in foreign if gene in chosen.genes]
    row = row._replace(value=len(genes), note=", ".join(genes))
    return row._replace(rule="no gene of theirs", passed=verdict(not genes))


def _in_sets(subject: str, table: pd.DataFrame) -> Criterion:
    """How many sets are over-represented.

    There is no rule, since a programme may well be one of them.
    """
    clear = table.loc[table["q"] < criteria.LEVEL, "set"].tolist()
    note = ", ".join(clear[:3])
    if len(clear) > 3:
        note += f" and {len(clear) - 3} more"
    row = Criterion(criteria.SETS, subject, len(clear), note=note)
    return row._replace(passed=criteria.INFORMATION)


def _recovers(
    subject: str, score: pd.Series, wanted: list[str], rng: np.random.Generator
) -> Criterion:
    """Area under the curve of the genes reported with CD49d, trisomy 12 or NOTCH1."""
    auroc, p, n = recovery(score, wanted, rng=rng)
    row = Criterion(criteria.REFERENCE, subject, auroc, p=p)
    if np.isnan(auroc):
        return row._replace(note="none of the reference genes was tested")
    note = f"{n} of {len(wanted)} genes are there"
    return row._replace(null=0.5, note=note, passed=criteria.INFORMATION)


def over_representation(
    chosen: Iterable[str], universe: Iterable[str], sets: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """Fisher's exact test, one-sided, of each set: one row per set, the clearest first.

    ``n`` of the ``size`` genes that the set has in `universe` are chosen, where ``expected`` would
    be by chance. The ``odds_ratio`` has half a gene added to every field of the table (Haldane and
    Anscombe), so that it is finite. ``q`` is Benjamini and Hochberg's over the sets that have a
    gene in `universe`; the others have no test. decoupler's ``ora`` is not used: it takes the genes
    from the top of a ranking and tests both sides.
    """
    chosen, universe = set(chosen), set(universe)
    if others := sorted(chosen - universe):
        raise ValueError(
            "universe must hold all genes that could have been chosen, so all that were; it lacks "
            f"{listed(others)}."
        )
    inside = [set(genes) & universe for genes in sets.values()]
    n = np.array([len(chosen & genes) for genes in inside], dtype=np.int64)
    size = np.array([len(genes) for genes in inside], dtype=np.int64)
    n_chosen, total = len(chosen), len(universe)
    neither = total - n_chosen - size + n
    a, b, c, d = np.array([n, n_chosen - n, size - n, neither]) + 0.5
    table = pd.DataFrame({"set": list(sets), "n": n, "size": size})
    table["expected"] = size * n_chosen / max(total, 1)
    table["odds_ratio"] = a * d / (b * c)
    table["p"] = stats.hypergeom.sf(n - 1, total, size, n_chosen)
    table["q"] = np.nan
    table.loc[size == 0, ["odds_ratio", "p"]] = np.nan
    tested = size > 0
    table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"])
    return table.sort_values(["p", "set"], kind="stable", ignore_index=True)


class Recovery(NamedTuple):
    """Area under the ROC curve of wanted genes in a ranking, its p, and how many were ranked."""

    auroc: float
    p: float
    n: int


def reference_genes() -> pd.DataFrame:
    """Reference genes: ``gene``, ``tier``, ``direction`` and ``evidence``.

    The direction is 1 or −1 where a gene is higher or lower with CD49d, and 0 where it has none.
    Tier ``T1`` was reported with CD49d in CLL; ``T2`` with trisomy 12 or NOTCH1, which go with
    CD49d; ``T3`` is not verified; ``contamination`` are genes of other cells that B cells should
    not have. No published list of the genes of CD49d-positive CLL is behind this: it is a check
    that a ranking is sane, not a ground truth.
    """
    path = resources.files("scbert_cll._signature").joinpath("cd49d_reference.csv")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def recovery(
    ranking: pd.Series,
    wanted: Iterable[str],
    n_permutations: int = 1000,
    rng: int | np.random.Generator | None = 0,
) -> Recovery:
    """Area under the ROC curve of the wanted genes in a ranking, and its p.

    A ranking has a score by gene, the highest first. The p is the share of draws, of as many random
    genes of the ranking, that are as far up; the ranking itself counts as one, so it is never zero.
    Genes that move together are not independent draws, so a small p is a hint and not a proof; and
    a large one does not refute, since the list is not the truth. Genes without a score are not
    ranked. Where no gene or every gene is wanted there is no area.
    """
    ranking = ranking.dropna()
    ranks = stats.rankdata(ranking.to_numpy(np.float64))
    hit = ranking.index.isin(list(wanted))
    n = int(hit.sum())
    if n in (0, len(ranks)):
        return Recovery(np.nan, np.nan, n)
    generator = np.random.default_rng(rng)
    rank_sum, n_as_high = ranks[hit].sum(), 0
    for _ in range(n_permutations):
        drawn = generator.choice(len(ranks), n, replace=False)
        n_as_high += int(ranks[drawn].sum() >= rank_sum)
    auroc = (rank_sum - n * (n + 1) / 2) / (n * (len(ranks) - n))
    return Recovery(float(auroc), (1 + n_as_high) / (1 + n_permutations), n)
