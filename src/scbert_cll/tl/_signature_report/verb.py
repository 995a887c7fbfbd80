"""tl.signature_report: what a signature has to pass before anyone believes it, and plain rankings through the same gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import is_model, key_in, number_in
from scbert_cll._signature import gene_sets as sets_of
from scbert_cll._signature.procedure import Limits
from scbert_cll._signature.report import content as report_content
from scbert_cll._signature.report import criteria, permutation
from scbert_cll._signature.report.criteria import Gate
from scbert_cll._signature.report.ranking import Ranking, abundance
from scbert_cll._signature.report.study import Measured, Study
from scbert_cll.tl._signature_report import faithfulness
from scbert_cll.tl._signature_report import network as signature_report_network

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

_USUAL: Final = 20  # genes of a ranking where the signature has none
_N_DRAWS: Final = 1000  # of random genes beside the reference genes
_LEAST: Final = 19  # random sets or permutations, with which p can be 0.05
_REFITTED: Final = (*faithfulness.KINDS, criteria.PERMUTED, criteria.STABILITY)


@dataclass(frozen=True)
class SignatureReport:
    """What :func:`~scbert_cll.tl.signature_report` found; ``print`` it for a report in markdown.

    Attributes
    ----------
    gates
        One row per gate and subject: ``value`` with its 95 % limits ``low`` and ``high``, the
        null's mean ``null`` and 95 % point ``null_high``, ``p``, the ``rule``, whether it
        ``passed`` (``yes``, ``no``, ``not run``; ``information`` where there is no rule), and a
        ``note``.
    curves
        AUROC within held-out donors without the first ``k`` genes (``deletion``) and with them only
        (``insertion``), by ``reader`` and ``subject``.
    stability
        Nogueira's index with its limits, Kuncheva's and Jaccard's, for the labels as they are and
        permuted.
    enrichment
        Every set of genes by subject, if sets were given.
    reason
        Why the signature is empty, or an empty text.
    """

    gates: pd.DataFrame
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    stability: pd.DataFrame = field(default_factory=pd.DataFrame)
    enrichment: pd.DataFrame = field(default_factory=pd.DataFrame)
    reason: str = ""

    @property
    def passed(self) -> bool:
        """The signature fails no gate and passes at least one of those that need other donors or labels; what was not run is not counted."""
        own = self.gates.loc[self.gates["subject"] == faithfulness.SIGNATURE].set_index("gate")[
            "passed"
        ]
        again = own[own.index.isin(_REFITTED)]
        return bool((again == criteria.YES).any() and not (own == criteria.NO).any())

    def to_markdown(self) -> str:
        """Verdict, a table of gates × subjects, and what is to be said of them."""
        own = self.gates[self.gates["subject"] == faithfulness.SIGNATURE]
        counts = own["passed"].value_counts()
        told = (
            f"{counts.get(criteria.YES, 0)} gates passed, {counts.get(criteria.NO, 0)} not, "
            f"{counts.get(criteria.NOT_RUN, 0)} not run"
        )
        verdict = (
            f"The signature is empty: {self.reason}."
            if self.reason
            else f"{'Passed' if self.passed else 'Not passed'}: {told}."
        )
        return "\n".join(
            ["# Signature report", "", verdict, "", *criteria.markdown(self.gates), ""]
        )

    def __str__(self) -> str:
        return self.to_markdown()


@dataclass
class Results:
    """Gates so far, and the tables that go with them."""

    gates: list[Gate] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def add(self, more: list[Gate], tables: Mapping[str, pd.DataFrame]) -> None:
        """Further gates; tables of the same name are put below each other."""
        self.gates += more
        for name, table in tables.items():
            both = [self.tables[name], table] if name in self.tables else [table]
            self.tables[name] = pd.concat(both, ignore_index=True).rename(index=str)


def signature_report(
    adata: AnnData,
    model: ScBERTClassifier | None = None,
    *,
    gene_sets: sets_of.GeneSets | None = None,
    chromosome_key: str = "chromosome",
    n_random: int = 200,
    n_permutations: int = 20,
    n_network: int = 20,
    n_refits: int = 0,
    split_key: str = _keys.SPLIT,
    batch_size: int | None = None,
    key: str = _keys.SIGNATURE,
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.SIGNATURE_REPORT,
) -> SignatureReport:
    """Put a signature through gates that a list of abundant genes would fail, and show that it does.

    Is it faithful: do its genes suffice to tell the cells of other donors apart, and are they
    missed, more than random genes that are expressed as much? Is it sane: is there none where
    labels are permuted? Is it stable, beyond what any ranking is? And which genes are in it: a
    chromosome's, those that differ whatever is asked, or those of other cells? The first genes by
    abundance and, with a model, by plain attention go through the same gates.

    Parameters
    ----------
    adata
        Cells × genes after :func:`~scbert_cll.tl.signature`, with the same counts, labels and
        donors; changed in ``uns`` only.
    model
        A trained classifier: also look at plain attention, at what the network loses without the
        genes, and at whether its attribution survives random weights. Takes minutes.
    gene_sets
        Sets to look for: a mapping, a GMT file (e.g. the hallmarks), or decoupler's table.
    chromosome_key
        ``var`` column of chromosomes; without it the question about chromosome 12 stays open.
    n_random
        Matched random sets, each with a regression per fold.
    n_permutations
        Times that labels are permuted within donors and everything is done again.
    n_network
        The same as `n_random` for the network, in up to 300 cells.
    n_refits
        Networks to train on permuted labels, each as long as `model` was; 0 leaves that gate out.
    split_key
        ``obs`` column of the split `model` was trained with.
    batch_size
        Cells at a time in the network; affects speed and memory, not results.
    key
        Name under which ``tl.signature`` wrote.
    rng
        Seed of sets, permutations and intervals.
    key_added
        Name of the entry in ``uns``.

    Returns
    -------
    A :class:`~scbert_cll.tl.SignatureReport` with the tables ``gates``,
    ``curves``, ``stability`` and ``enrichment``, and ``passed``. In `adata`:

    ``adata.uns['signature_report']`` : dict
        The same tables, ``passed``, ``reason`` and ``params``.

    Raises
    ------
    KeyError
        There is no signature, or what it was found in is no longer there.
    TypeError
        `model` is no classifier, or `gene_sets` no sets.
    ValueError
        A number out of range, or `adata` is a view.

    Notes
    -----
    *Nested.* A signature scored in the donors it was found in would always do well. So for
    sufficiency and comprehensiveness up to four parts of the donors are held out in turn, and the
    whole procedure, rankings included, runs on the others. Intervals draw donors anew.

    What a network's ``veto`` took away is not taken away again in other donors or under other
    labels.

    *Sufficiency* is the AUROC within held-out donors of a logistic regression of the genes alone.
    *Comprehensiveness* is what a logistic regression of all genes loses when theirs are taken out
    of its sum (DeYoung et al. 2020, arXiv:1911.03429); it is not fitted again, since what stand-ins
    could do is a question about them. p is the share of matched random sets that do as well (with
    the genes themselves counted).

    *Stability* is Nogueira's index (2018, JMLR 18(174)) over leaving out one donor at a time,
    beside the same under permuted labels: a ranking by abundance is as stable there.

    *Random weights* (Adebayo et al. 2018, arXiv:1810.03292): rank correlation with what the network
    says of the genes after the head, or all its weights, were drawn anew (mean of five draws);
    below .5 and .2. The attribution is taken by its size in the cells that express a gene, since as
    a mean over all cells it holds detection, which no weights change. Attention is taken as
    rankings take it.

    Examples
    --------
    >>> import scbert_cll as sb
    >>> adata = sb.datasets.planted_donors(n_cells=80, n_genes=200)
    >>> sb.tl.signature(adata, groupby="label")
    >>> report = sb.tl.signature_report(adata, n_random=19, n_permutations=19)
    >>> report.passed
    True
    """
    asked = _record.params(locals())
    adata = _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    _checks.slots.new_key(key_added, [key])
    number_in(n_random, "n_random", _LEAST, np.inf, whole=True)
    number_in(n_network, "n_network", _LEAST, np.inf, whole=True)
    number_in(n_permutations, "n_permutations", _LEAST, np.inf, whole=True)
    number_in(n_refits, "n_refits", 0, np.inf, whole=True)
    if model is not None:
        is_model(model, ("ScBERTClassifier",))
    sets = None if gene_sets is None else sets_of.read(gene_sets)
    key_in(key, adata.uns, "adata.uns", "Run tl.signature first.")
    record = adata.uns[key]
    study, known = _study(adata, record["params"])
    seeds = np.random.default_rng(rng).spawn(4)
    n_genes = len(_chosen(record))
    k = min(n_genes or _USUAL, max(len(study.genes) // 3, 1))
    network = (
        None
        if model is None
        else signature_report_network.Network(model, adata[known], split_key, batch_size)
    )
    found, rankings = Results(), dict[str, Ranking]()
    if why := _blocked(study, record):
        names = _subjects(model is not None)
        found.gates += [gate for name in _REFITTED for gate in criteria.not_run(name, names, why)]
    else:
        permuted = [study.permuted(seeds[0]) for _ in range(n_permutations)]
        rankings = {} if network is None else {"attention": network.attention(study, permuted)}
        rankings |= {faithfulness.ABUNDANCE: abundance(study, permuted)}
        found.gates, found.tables["curves"] = faithfulness.held_out(
            study, rankings, k, n_random, seeds[1]
        )
        found.gates += permutation.permuted_gates(n_genes, permuted, rankings, k)
        stable, found.tables["stability"] = permutation.stability_gates(
            study, n_genes, permuted, rankings, k
        )
        found.gates += stable
        if network is not None:
            found.add(*network.gates(study, rankings, k, n_network, n_refits, seeds[2]))
    if len(record["genes"]):  # what is in it needs no further donors
        chromosome = cast("pd.DataFrame", adata.var).get(chromosome_key)
        found.add(*_content(record, rankings, k, chromosome, sets, seeds[3]))
    report = SignatureReport(
        _honest(criteria.table(found.gates), record), **found.tables, reason=str(record["reason"])
    )
    params = asked | {"with_model": model is not None, "n_genes": k}
    _record.write(adata, uns={key_added: _tables(report) | {"params": params}})
    return report


def _study(adata: AnnData, params: Mapping[str, Any]) -> tuple[Study, np.ndarray]:
    """What tl.signature looked at, and which rows of `adata` these are."""
    classes = [str(name) for name in params["classes"]]
    codes = _checks.adata.labels(adata, str(params["groupby"]), classes, np.arange(adata.n_obs))
    donors = _checks.people.donors(adata, str(params["donor_key"]))
    counts = _checks.counts.counts(adata, None if params["layer"] == "X" else str(params["layer"]))
    known = np.flatnonzero((codes >= 0) & donors.notna())
    genes = np.flatnonzero(~adata.var_names.isin([str(gene) for gene in params["exclude_genes"]]))
    numbers = (
        int(params["min_cells"]),
        int(params["min_donors"]),
        float(params["min_detected"]),
        float(params["alpha"]),
    )
    limits = Limits(*numbers, bool(params.get("paired", True)))
    measured = Measured(counts[known][:, genes], adata.var_names[genes], limits.min_detected)
    return Study(measured, codes[known], donors.to_numpy()[known], classes, limits), known


def _blocked(study: Study, record: Mapping[str, Any]) -> str:
    """Why nothing can be found again, or an empty text."""
    if not study.limits.paired:
        return (
            "the signature compares donors with each other; labels cannot be permuted within them"
        )
    if not len(record["genes"]):
        return str(record["reason"])
    if not study.folds():
        n, least = len(study.whole), study.limits.min_donors
        return (
            f"{n} donors have cells enough, and with one left out there are fewer than the "
            f"{least} that are needed"
        )
    return ""


def _subjects(with_model: bool) -> list[str]:
    return [faithfulness.SIGNATURE, *(["attention"] if with_model else []), faithfulness.ABUNDANCE]


def _chosen(record: Mapping[str, Any]) -> list[str]:
    table = record["genes"]
    return table.loc[table["selected"], "gene"].tolist() if len(table) else []


def _content(
    record: Mapping[str, Any],
    rankings: Mapping[str, Ranking],
    k: int,
    chromosome: pd.Series | None,
    sets: Mapping[str, list[str]] | None,
    rng: np.random.Generator,
) -> tuple[list[Gate], dict[str, pd.DataFrame]]:
    """Gates on which genes there are, of every subject that has some."""
    table = record["genes"]
    universe = pd.Index(table["gene"], dtype=object)
    scores = {faithfulness.SIGNATURE: pd.Series(table["t"].abs().to_numpy(), universe)}
    scores |= {
        name: pd.Series(one.score(), one.genes).reindex(universe) for name, one in rankings.items()
    }
    chosen = {name: score.nlargest(k).index.tolist() for name, score in scores.items()}
    chosen[faithfulness.SIGNATURE] = _chosen(record)
    found = [_chromosome(name, genes, universe, chromosome) for name, genes in chosen.items()]
    found += [report_content.family_gate(name, genes, universe) for name, genes in chosen.items()]
    found += [
        report_content.contamination_gate(name, genes, universe) for name, genes in chosen.items()
    ]
    tables = {}
    if sets is not None:
        parts = [
            report_content.set_gate(name, genes, universe, sets) for name, genes in chosen.items()
        ]
        found += [gate for gate, _ in parts]
        tables["enrichment"] = pd.concat([part for _, part in parts], ignore_index=True).rename(
            index=str
        )
    found += [report_content.reference_gate(name, scores[name], _N_DRAWS, rng) for name in scores]
    return found, tables


def _chromosome(
    subject: str, genes: list[str], universe: pd.Index, chromosome: pd.Series | None
) -> Gate:
    if chromosome is None:
        return criteria.not_run(
            criteria.CHROMOSOME,
            [subject],
            "no such column of adata.var: name it with chromosome_key=",
        )[0]
    own = report_content.on_chromosome(chromosome)
    return report_content.apart(
        criteria.CHROMOSOME, subject, genes, universe, own, "trisomy 12 raises all of its genes"
    )


def _honest(table: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """An empty signature passes nothing and fails nothing."""
    if _chosen(record):
        return table
    own = (table["subject"] == faithfulness.SIGNATURE) & (table["gate"] != criteria.REFERENCE)
    numbers = ["value", "low", "high", "null", "null_high", "p"]
    table.loc[own & (table["gate"] != criteria.PERMUTED), numbers] = np.nan  # there 0 is a number
    table.loc[own, "passed"] = criteria.NOT_RUN
    table.loc[own, "note"] = f"the signature is empty: {record['reason']}"
    return table


def _tables(report: SignatureReport) -> dict[str, Any]:
    """Plain values and tables that a file can hold."""
    tables = {
        "gates": report.gates,
        "curves": report.curves,
        "stability": report.stability,
        "enrichment": report.enrichment,
    }
    return {name: table for name, table in tables.items() if len(table)} | {
        "passed": report.passed,
        "reason": report.reason,
    }
