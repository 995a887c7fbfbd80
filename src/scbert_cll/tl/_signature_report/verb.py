"""tl.signature_report: what a signature has to pass before anyone believes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import is_model, listed, number_in
from scbert_cll._signature import data as signature_data
from scbert_cll._signature import gene_sets as sets_of
from scbert_cll._signature import record as signature_record
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.procedure import selected_names
from scbert_cll._signature.report import criteria, stability
from scbert_cll._signature.report.content import content
from scbert_cll._signature.report.criteria import Criterion
from scbert_cll._signature.report.permutation import LEAST, Permuter, too_fine
from scbert_cll._signature.report.ranking import Comparison, Ranking, abundance
from scbert_cll.tl._signature_report import faithfulness
from scbert_cll.tl._signature_report.network import NetworkReader

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

_USUAL: Final = 20  # genes of a ranking where the signature has none
_LEAST: Final = 19  # random sets or permutations, with which p can be 0.05
_REPEATED: Final = (*faithfulness.KINDS, criteria.PERMUTED, criteria.STABILITY)


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
        AUROC in held-out donors without the first ``k`` genes (``deletion``) and with them only
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
        """Whether the signature fails no gate, and passes one that needs other donors or labels.

        What was not run is not counted.
        """
        rows = self.gates[self.gates["subject"] == criteria.SIGNATURE]
        is_met = rows["gate"].isin(_REPEATED) & (rows["passed"] == criteria.YES)
        return bool(is_met.any() and not (rows["passed"] == criteria.NO).any())

    def to_markdown(self) -> str:
        """Verdict, a table of gates × subjects, and the notes."""
        is_signature = self.gates["subject"] == criteria.SIGNATURE
        words = self.gates.loc[is_signature, "passed"].tolist()
        counted = criteria.YES, criteria.NO, criteria.NOT_RUN
        yes, no, not_run = map(words.count, counted)
        passed = "Passed" if self.passed else "Not passed"
        verdict = f"{passed}: {yes} gates passed, {no} not, {not_run} not run."
        if self.reason:
            verdict = f"The signature is empty: {self.reason}."
        table = criteria.markdown(self.gates)
        return "\n".join(["# Signature report", "", verdict, "", *table, ""])

    __str__ = to_markdown


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
    """Put a signature through gates that a list of abundant genes fails, and show that it does.

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
        Times that labels are permuted and everything is done again; as many as there are, where
        there are fewer arrangements.
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
        The same tables, ``passed``, ``reason`` and ``params``, where ``permutations`` has the
        ``scheme`` in words, ``n_possible`` arrangements of the labels, and ``n``, how many of them
        were drawn.

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

    *Slopes over numbers.* There are no labels, and what needs them is not run.

    *Permuted labels.* Within donors of both classes, labels change places among the cells of a
    sample that are alike in the covariates; where one that varies within donors has more than ten
    values, what needs other labels or donors is not run. Donors of one class, which ``between`` and
    ``both`` compare, change labels as a whole, within strata of the covariates. Where a covariate
    is continuous, or the strata leave fewer than twenty arrangements, it is residuals beside the
    covariates that change places (Freedman and Lane 1983, doi:10.1080/07350015.1983.10509354). An
    arrangement is drawn once, and p cannot be smaller than their number allows; with fewer than
    twenty nothing is run. Now and then donors' labels are almost as they were, and find the same
    genes: so not the mean counts, but half of the arrangements.

    *Donors of one class* are held out together with others of the other class. Their cells are
    ranked among each other, whatever their covariates, and intervals draw folds. A donor that the
    design cannot spare is never held out.

    What a network's ``veto`` took away is not taken away again in other donors or under other
    labels.

    *Sufficiency* is the AUROC in held-out donors, within each that has both classes, of a logistic
    regression of the genes alone. *Comprehensiveness* is what a logistic regression of all genes
    loses when theirs are taken out of its sum (DeYoung et al. 2020, arXiv:1911.03429); it is not
    fitted again, since what stand-ins could do is a question about them. p is the share of matched
    random sets that do as well (with the genes themselves counted).

    *Stability* is Nogueira's index (2018, JMLR 18(174)) over leaving out one donor at a time,
    beside the same under permuted labels: a ranking by abundance is as stable there.

    *Random weights* (Adebayo et al. 2018, arXiv:1810.03292): rank correlation with what the network
    says of the genes after the head, or all its weights, were drawn anew (mean of five draws);
    below .5 and .2. The attribution is taken by its size in the cells that express a gene, since as
    a mean over all cells it holds detection, which no weights change. Attention is taken as
    rankings take it.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_cells=80, n_genes=200)
    >>> sc_cll.tl.signature(adata, groupby="label")
    >>> report = sc_cll.tl.signature_report(adata, n_random=19, n_permutations=19)
    >>> report.passed
    True
    """
    params = _record.params(locals())
    adata = _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    _checks.adata.new_key(key_added, [key])
    number_in(n_random, "n_random", _LEAST, np.inf, whole=True)
    number_in(n_permutations, "n_permutations", _LEAST, np.inf, whole=True)
    number_in(n_network, "n_network", _LEAST, np.inf, whole=True)
    number_in(n_refits, "n_refits", 0, np.inf, whole=True)
    sets = None if gene_sets is None else sets_of.read(gene_sets, adata.var_names)
    record = signature_record.read(adata, key)
    genes, reason = record["genes"], str(record["reason"])
    found_with = record["params"]
    _check_model(model, found_with["classes"], key)
    layer = None if found_with["layer"] == "X" else str(found_with["layer"])
    source = signature_data.read(adata, found_with, layer)
    data = signature_record.compared(source.data, record)
    rngs = np.random.default_rng(rng).spawn(4)
    n_genes = len(selected_names(genes))
    k = min(n_genes or _USUAL, max(len(data.counts.tested.genes) // 3, 1))
    rows: list[Criterion] = []
    rankings: dict[str, Ranking] = {}
    tables: dict[str, pd.DataFrame] = {}
    network = None
    if model is not None:
        places, cells = np.arange(len(source.rows)), adata[source.rows]
        network = NetworkReader(model, cells, data, places, split_key, batch_size)
    if why := _not_repeatable(data, reason if genes.empty else ""):
        attention = [] if model is None else [criteria.ATTENTION]
        subjects = [criteria.SIGNATURE, *attention, criteria.ABUNDANCE]
        rows += [Criterion(name, subject, note=why) for name in _REPEATED for subject in subjects]
    else:
        permuter = Permuter.of(data)
        permuted = permuter.draw(n_permutations, rngs[0])
        params["permutations"] = permuter.facts | {"n": len(permuted)}
        if network is not None:
            rankings[criteria.ATTENTION] = network.attention(permuted)
        rankings[criteria.ABUNDANCE] = abundance(data, permuted)
        compared = Comparison(data, permuted, n_genes, k, rankings)
        rows, curves = faithfulness.held_out(compared, n_random, rngs[1])
        rows += stability.under_permuted_labels(compared, permuter.words)
        stable, tables["stability"] = stability.without_single_donors(compared)
        rows += stable
        if network is not None:
            results, others = network.criteria(compared, n_network, n_refits, rngs[2])
            rows += results
            curves = pd.concat([curves, others], ignore_index=True).rename(index=str)
        tables["curves"] = curves
    if not genes.empty:  # what is in it needs no further donors
        chromosome = cast("pd.DataFrame", adata.var).get(chromosome_key)
        of_genes, enrichment = content(genes, rankings, k, chromosome, sets, rngs[3])
        rows += of_genes
        tables |= enrichment
    tables["gates"] = criteria.table(rows)
    if not n_genes:
        _blank(tables["gates"], reason)
    report = SignatureReport(**tables, reason=reason)
    params |= {"with_model": model is not None, "n_genes": k}
    entry = {name: table for name, table in tables.items() if len(table)}
    facts = {"passed": report.passed, "reason": reason, "params": params}
    _record.write(adata, uns={key_added: entry | facts})
    return report


def _check_model(model: ScBERTClassifier | None, classes: Sequence[str], key: str) -> None:
    """Refuse what is no classifier, and one for a slope."""
    if model is None:
        return
    is_model(model, ("ScBERTClassifier",))
    if not len(classes):
        raise ValueError(
            f"adata.uns[{key!r}] is a slope over numbers, and a classifier tells classes apart. "
            "Leave model out."
        )


def _not_repeatable(data: PseudobulkData, reason: str) -> str:
    """Why the genes cannot be looked for again, or an empty text."""
    if data.number is not None:
        return "the signature is a slope over numbers; there are no labels to permute or to learn"
    if reason:
        return reason
    if fine := too_fine(data):
        return (
            f"the signature is adjusted for {listed(fine)}, and cells alike in it are too few to "
            "permute their labels"
        )
    if data.folds:
        n = Permuter.of(data).n_possible
        few = f"the labels can be arranged in {n:.0f} ways, and it takes {LEAST} for a p of 0.05"
        return few if n < LEAST else ""
    least = f"the {data.limits.min_donors} that are needed"
    if data.limits.within:
        n = len(data.complete_donors)
        return f"{n} donors have cells enough, and with one left out there are fewer than {least}"
    each = "; ".join(f"{name}: {n}" for name, n in data.sampled.sum().items())
    return f"with donors held out ({each}) there are fewer than {least} of each class"


def _blank(gates: pd.DataFrame, reason: str) -> None:
    """Let an empty signature pass nothing and fail nothing."""
    blank = gates["subject"] == criteria.SIGNATURE
    blank &= gates["gate"] != criteria.REFERENCE
    numbers = blank & (gates["gate"] != criteria.PERMUTED)  # there 0 is a number
    gates.loc[numbers, list(criteria.NUMBERS)] = np.nan
    gates.loc[blank, "passed"] = criteria.NOT_RUN
    gates.loc[blank, "note"] = f"the signature is empty: {reason}"
