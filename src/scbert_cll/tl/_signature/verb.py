"""tl.signature: the genes that go with a class within donors, each with its evidence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys, _names, _record
from scbert_cll._checks.words import is_model, number_in, share
from scbert_cll._signature.families import family
from scbert_cll._signature.procedure import Found, Limits, find

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

logger = logging.getLogger(__name__)

_BETWEEN: Final = (
    "paired=False compares donors with each other: whatever else tells them apart (genotype, "
    "trisomy, batch, treatment) is in the "
    "signature, too."
)
_VETO: Final = (
    0.75  # AUROC within held-out donors, from which a network's opinion may take genes away
)


def signature(
    adata: AnnData,
    model: ScBERTClassifier | None = None,
    *,
    groupby: str = _keys.CD49D,
    donor_key: str = _keys.DONOR,
    layer: str | None = None,
    gene: str | None = "ITGA4",
    exclude_genes: Sequence[str] = (),
    min_cells: int = 20,
    min_donors: int = 4,
    min_detected: float = 0.02,
    alpha: float = 0.05,
    paired: bool = True,
    veto: bool = False,
    split_key: str = _keys.SPLIT,
    batch_size: int | None = None,
    key_added: str = _keys.SIGNATURE,
    copy: bool = False,
) -> AnnData | None:
    """Find the genes whose expression goes with a class of cells within donors, or say why there are none.

    The donor is the unit: counts are summed per donor and class, and a gene is tested on the
    differences between the classes within donors, so that clone, sex, batch and depth of a donor
    cancel. A gene is selected if its moderated t passes Benjamini and Hochberg's procedure and a
    logistic regression of single cells, learned on other donors, gives it a coefficient of the same
    sign that stands out. There is no fixed number of genes: where nothing passes, the signature is
    empty and `uns` says why. A trained network adds what it says of each gene in cells of donors it
    has not seen; it selects nothing.

    Parameters
    ----------
    adata
        Cells × genes with raw counts and labels; with `model`, also the layer it was trained on.
    model
        A classifier trained on `groupby`, whose evidence is put beside each gene.
    groupby
        `obs` column of the classes, in order: the last one against the first. With more than two,
        the slope over all of them, and the classifier tells the outer two apart. Cells without a
        class take no part.
    donor_key
        `obs` column of donors.
    layer
        Layer with the raw counts; None means `adata.X`, ``"raw"`` `adata.raw` (genes by name).
    gene
        The marker's own gene, which is marked in the table. None marks none.
    exclude_genes
        Genes to leave out from the start, e.g. ``["ITGA4"]``.
    min_cells
        Cells of every class that a donor needs to count.
    min_donors
        Donors needed. Below four a consistent difference is no evidence.
    min_detected
        Share of the labelled cells that must express a gene for it to be tested.
    alpha
        Expected share of false genes among those that pass the test (before the classifier takes
        some away).
    paired
        Compare classes within donors. ``False`` compares donors with each other, each by the class
        that most of its cells are of, and takes `min_donors` of each: whatever else tells these
        donors apart (genotype, trisomy, batch, treatment) is then in the signature, too.
    veto
        Let the network take genes away that it does not agree on (``attribution_agrees``); needs a
        `model` with an AUROC of 0.75 within held-out donors.
    split_key
        `obs` column of the split the network was trained with: its test and validation cells are
        those it has not seen.
    batch_size
        Cells at a time in the network; affects speed and memory, not results.
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['signature']`` : dict
        ``genes``, DataFrame of all tested genes, the clearest first: ``gene``, ``sign``,
        ``selected``, ``log2_fc`` from the first class to the last with its standard ``error`` and
        95 % limits ``low`` and ``high``, ``t``, ``p``, ``q``, ``coefficient`` (per standard
        deviation of log-expression), ``agrees`` (the classifier does), ``n_same_sign`` (donors
        whose own difference has the sign), ``n_left_out`` (leaving out one donor at a time: without
        how many the gene is still found), ``abundance`` (mean log2 sum), ``detected`` (share of
        cells), ``family`` (immunoglobulin, HLA, sex, mitochondrial, ribosomal, marker: genes that
        differ between donors or cells whatever is asked). With a network ``attribution`` (how the
        logit changes with the presence of the gene's token; positive speaks for the last class),
        ``attribution_z`` over donors, ``attribution_agrees``, and ``attention``, the plain
        attention the gene receives in cells of the last class, which is abundance and evidence of
        nothing. ``arms``, DataFrame: how many genes are tested and selected with all genes, without
        those families, without the marker's gene, and without both (the test's q anew, the
        classifier as it is); ``expression``, DataFrame of genes × "donor|class", log2 of the scaled
        sums; ``differences``, DataFrame of genes × donors; ``samples`` and ``donors``, what there
        was of each; ``reason``, why nothing is selected, or an empty text; ``n_donors``,
        ``n_tested``, ``df`` and ``df_prior`` of the test, ``gate``, the least coefficient;
        ``auroc_within`` of the network in held-out cells; ``params``.

    Raises
    ------
    KeyError
        A column, a layer or one of `exclude_genes` is missing.
    TypeError
        `model` is no classifier.
    ValueError
        Fewer than two classes, values that are no raw counts, a parameter out of range, more than
        two classes with ``paired=False``, no held-out cells for the network, or a `veto` without a
        network that has learned enough.

    Warns
    -----
    UserWarning
        Donors are compared with each other, or the network has learned little.

    Notes
    -----
    Size factors are medians of ratios (Anders and Huber 2010, doi:10.1186/gb-2010-11-10-r106) over
    the genes that do not change, in up to three rounds of testing and scaling (Sun et al. 2013,
    doi:10.1186/1471-2105-14-219). The test is limma's with an abundance trend (Smyth 2004,
    doi:10.2202/1544-6115.1027; Law et al. 2014, doi:10.1186/gb-2014-15-2-r29) of log2(sum + 2). The
    guarantee of Benjamini and Hochberg is that of the test; what the classifier takes away is known
    from simulations only.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_genes=100, rng=0)
    >>> sc_cll.tl.signature(adata, groupby="label")
    >>> adata.uns["signature"]["n_selected"]
    24
    >>> sc_cll.tl.signature(adata, groupby="label", min_cells=80)
    >>> adata.uns["signature"]["n_selected"], adata.uns["signature"]["reason"][:41]
    (0, '0 donors have 80 cells of every class (no')
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.slots.new_key(key_added)
    limits = Limits(min_cells, min_donors, min_detected, alpha, paired)
    _check(limits, model, veto)
    classes = _checks.adata.classes(_checks.adata.obs_column(adata, groupby), groupby)
    if not paired and len(classes) > 2:
        raise ValueError(
            f"paired=False compares two classes; adata.obs[{groupby!r}] has "
            f"{_checks.words.listed(classes)}."
        )
    codes = _checks.adata.labels(adata, groupby, classes, np.arange(adata.n_obs))
    donors = _checks.people.donors(adata, donor_key)
    codes = np.where(donors.notna(), codes, -1)
    _checks.genes.known_genes(exclude_genes, adata)
    target = _checks.adata.target(adata, copy=copy)
    counts, note = _checks.counts.noted_counts(adata, layer)
    kept = np.flatnonzero(~adata.var_names.isin(list(exclude_genes)))
    found = find(counts[:, kept], adata.var_names[kept], codes, donors.to_numpy(), classes, limits)
    params |= {"classes": classes} | note | _checks.people.left_out(donors)
    record = _tables(found, gene)
    if model is not None and len(found.genes):
        from scbert_cll.tl._signature.network import Asked, network_evidence

        labels = np.array([*classes, None], dtype=object)[codes]  # −1 is the last: no label
        asked = Asked(classes[-1], split_key, min_cells, batch_size)
        columns, facts = network_evidence(adata, model, found.genes, labels, donors, asked)
        record |= _joined(record, columns, facts, veto) | facts
    if len(found.genes):
        genes = record["genes"]
        record["arms"] = _arms(
            genes, genes["agrees"] & genes["attribution_agrees"] if veto else genes["agrees"], alpha
        )
    if not paired:
        warnings.warn(_BETWEEN, stacklevel=2)
    _record.write(target, uns={key_added: record | {"params": params}})
    why = f": {record['reason']}" if record["reason"] else ""
    logger.info("%d of %d genes selected%s.", record["n_selected"], found.facts["n_tested"], why)
    return target if copy else None


def _check(limits: Limits, model: ScBERTClassifier | None, veto: bool) -> None:
    number_in(limits.min_cells, "min_cells", 2, np.inf, whole=True)
    number_in(limits.min_donors, "min_donors", 2, np.inf, whole=True)
    share(limits.min_detected, "min_detected")
    number_in(limits.alpha, "alpha", 1e-12, 0.5)
    if model is not None:
        is_model(model, ("ScBERTClassifier",))
    elif veto:
        raise ValueError("veto=True needs a model, whose opinion it is.")


def _tables(found: Found, gene: str | None) -> dict[str, Any]:
    """Tables and plain values that a file can hold."""
    genes = (
        found.genes.assign(family=family(pd.Index(found.genes["gene"]), gene))
        if len(found.genes)
        else found.genes
    )
    tables = {
        "genes": genes.rename(index=str),
        "samples": found.samples,
        "donors": found.n_cells,
        "arms": pd.DataFrame(),
    }
    expression = found.expression
    if len(found.samples):
        pairs = _names.columns_of(*(found.samples[name].tolist() for name in ("donor", "class")))
        expression = expression.set_axis(pairs, axis=1)
    tables |= {"expression": expression, "differences": found.differences}
    return tables | {"reason": found.reason, "n_selected": found.n_selected} | found.facts


def _joined(
    record: dict[str, Any], columns: pd.DataFrame, facts: dict[str, Any], veto: bool
) -> dict[str, Any]:
    """The genes with the network's columns, and without those it takes away."""
    genes = record["genes"].reset_index(drop=True).join(columns)
    reason = record["reason"]
    if veto:
        if not facts["auroc_within"] >= _VETO:
            raise ValueError(
                f"veto=True needs an AUROC of {_VETO} within held-out donors; the network's "
                f"is {facts['auroc_within']:.2f}. "
                "Leave veto out: the network's opinion stays beside each gene."
            )
        n = int(genes["selected"].sum())
        genes["selected"] &= genes["attribution_agrees"]
        if n and not genes["selected"].any():
            reason = (
                f"{n} genes pass the test and the linear classifier, and the network agrees on "
                f"none of them"
            )
        genes = genes.sort_values("selected", ascending=False, kind="stable", ignore_index=True)
    return {
        "genes": genes.rename(index=str),
        "reason": reason,
        "n_selected": int(genes["selected"].sum()),
    }


def _arms(genes: pd.DataFrame, agreed: pd.Series, alpha: float) -> pd.DataFrame:
    """What is selected without the genes that differ whatever is asked, and without the marker's own."""
    kinds = genes["family"]
    arms = {
        "all genes": kinds.notna(),
        "without donor and technical genes": kinds.isin(["", "marker"]),
    }
    arms |= {"without the marker's gene": kinds != "marker", "without both": kinds == ""}
    rows = []
    for name, kept in arms.items():
        own = genes[kept]
        chosen = agreed[kept] & (stats.false_discovery_control(own["p"]) < alpha)
        listed = ", ".join(own.loc[chosen, "gene"])
        rows.append(
            {"arm": name, "n_tested": len(own), "n_selected": int(chosen.sum()), "genes": listed}
        )
    return pd.DataFrame(rows).rename(index=str)
