"""tl.signature: the genes that go with a class within donors, each with its evidence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from anndata import AnnData
from pandas.api import types

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import choice, column_names, is_model, listed, number_in, share
from scbert_cll._gene_names import resolver
from scbert_cll._renamed import renamed_arguments
from scbert_cll._signature import covariates as covariates_of
from scbert_cll._signature import data as signature_data
from scbert_cll._signature import record as signature_record
from scbert_cll._signature import slope

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

logger = logging.getLogger(__name__)

Design = Literal["within", "between", "both"]

_FORMER: Final[Mapping[str, Mapping[object, object]]] = {
    "paired": {True: "within", False: "between"}
}
_MOST_NAMED: Final = 3  # columns that go with the class


@_docs.shared
@renamed_arguments(_FORMER, paired="design")
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
    design: Design = "within",
    covariates: Sequence[str] = (),
    sample_key: str | None = None,
    veto: bool = False,
    split_key: str = _keys.SPLIT,
    batch_size: int | None = None,
    key_added: str = _keys.SIGNATURE,
    copy: bool = False,
) -> AnnData | None:
    """Find the genes whose expression goes with a class within donors, or say why there are none.

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
        the slope over all of them, and the classifier tells the outer two apart. Or of numbers,
        over which the slope is taken, unless they are whole and of ten values at most, which are
        classes. ``/ 100`` and ``.astype("category")`` make a column the one or the other. Cells
        without a class or number take no part.
    donor_key
        `obs` column of donors.
    %(counts_layer)s
    gene
        The marker's own gene, which is marked in the table, also where it is written with a genome
        before it (``GRCh38_ITGA4``) or as in the mouse (``Itga4``). None marks none.
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
    design
        ``"within"``: compare classes within donors. ``"between"``: compare donors with each other,
        each by the class that most of its cells are of, `min_donors` of each: whatever else tells
        these donors apart (genotype, trisomy, batch, treatment) is then in the signature, too,
        unless it is among `covariates`. ``"both"``: donors with both classes within them, and all
        donors with each other, in one estimate, which assumes that the difference is the same. It
        needs two donors with both classes and `min_donors` with each. A gene whose two parts
        disagree is not selected, and where more genes disagree than chance explains, the signature
        is that within donors. With numbers ``"within"`` is the slope over the cells of a donor,
        such as the level of a protein: up to five groups of like cells, each of at least
        `min_cells`, are summed in each donor (and sample), every donor gives one slope over the
        groups' means, and their mean is tested. ``"between"`` is the slope over the donors' means,
        of what each donor has one of (a patient's percentage of positive cells); it needs
        `min_donors` + 1 donors, who must spread alike at every number.
    covariates
        `obs` columns to adjust for: numbers, categories, or ordered categories (as many columns as
        categories have). Between donors they have one value per donor. Within donors those that are
        the same in all cells of each donor cancel and are in no model; of others (time point,
        compartment) the mean over the cells of a donor and class counts. A donor without a value is
        left out. Each column takes a degree of freedom.
    sample_key
        `obs` column of a donor's samples (time points, compartments), each summed and scaled on its
        own. The donor stays the unit: its samples of a class count as their mean. Within donors,
        samples with all classes, if a donor has any, are the only ones of it.
    veto
        Let the network take genes away that it does not agree on (``attribution_agrees``); needs a
        `model` with an AUROC of 0.75 within held-out donors.
    split_key
        `obs` column of the split the network was trained with: its test and validation cells are
        those it has not seen.
    batch_size
        Cells at a time in the network; affects speed and memory, not results.
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['signature']`` : dict
        ``genes``, DataFrame of all tested genes, the clearest first: ``gene``, ``sign``,
        ``selected``, ``log2_fc`` from the first class to the last, or per 1 of the number, with its
        standard ``error`` and 95 % limits ``low`` and ``high``, ``t``, ``p``, ``q``,
        ``coefficient`` (per standard deviation of log-expression), ``agrees`` (the classifier
        does), ``n_same_sign`` (donors whose own difference has the sign), ``n_left_out`` (leaving
        out one donor at a time: without how many the gene is still found), ``abundance`` (mean log2
        sum), ``detected`` (share of cells), ``family`` (immunoglobulin, HLA, sex, mitochondrial,
        ribosomal, marker: genes that differ between donors or cells whatever is asked; by symbols
        of man or of the mouse, whose H2 is the HLA). With a network ``attribution`` (how the logit
        changes with the presence of the gene's token; positive speaks for the last class),
        ``attribution_z`` over donors, ``attribution_agrees``, and ``attention``, the plain
        attention the gene receives in cells of the last class, which is abundance and evidence of
        nothing. ``arms``, DataFrame: how many genes are tested and selected with all genes, without
        those families, without the marker's gene, and without both (the test's q anew, the
        classifier as it is); ``expression``, DataFrame of genes × "donor|class", log2 of the scaled
        sums; ``differences``, DataFrame of genes × donors, adjusted for covariates; ``samples`` and
        ``donors``, what there was of each; ``reason``, why nothing is selected, or an empty text;
        ``n_donors``, ``n_tested``, ``df`` and ``df_prior`` of the test, ``gate``, the least
        coefficient; ``auroc_within`` of the network in held-out cells. With ``design="both"`` also
        columns ``log2_fc_within``, ``error_within``, ``low_within``, ``high_within``, the same that
        end in ``_between``, and ``p_disagree`` (of Cochran's Q) in ``genes``, ``share_disagree``
        (of genes with ``p_disagree`` below 0.05), ``verdict`` over all genes in words, and
        ``n_donors_within`` where the parts were joined. With numbers ``slope``: the ``unit`` of the
        log2 fold changes, and of the levels that were compared ``low``, ``high`` and ``sd`` (of
        donors, or of the groups within the median donor); column ``level`` of ``samples``, whose
        classes are the groups from 1, or ``all`` cells of a donor; ``differences`` are donors'
        slopes or, between donors, each one's part in the slope, which is their mean; and in
        ``params`` ``n_cells_missing`` without a number, and ``donors_not_compared``, who have too
        few cells, or groups that differ by less than half of what the median donor's do.
        ``params``, with covariates also ``covariates_cancelled``, and ``donors_missing``, who is
        without a value of each.

    Raises
    ------
    KeyError
        A column, a layer or one of `exclude_genes` is missing.
    %(no_classifier)s
    ValueError
        Fewer than two classes, values that are no raw counts, a parameter out of range, more than
        two classes but within donors, numbers that are infinite, all the same, or with a `model` or
        ``design="both"``, no held-out cells for the network, or a `veto` without a network that has
        learned enough. A covariate that is constant, varies within donors that are compared with
        each other, has a level of one donor only or words among numbers, or cannot be told from the
        class or from another one.

    Warns
    -----
    UserWarning
        Donors are compared with each other (with the columns of `obs` that go with the class over
        them), or the network has learned little.

    Notes
    -----
    Size factors are medians of ratios (Anders and Huber 2010, doi:10.1186/gb-2010-11-10-r106) over
    the genes that do not change, in up to three rounds of testing and scaling (Sun et al. 2013,
    doi:10.1186/1471-2105-14-219). The test is limma's with an abundance trend (Smyth 2004,
    doi:10.2202/1544-6115.1027; Law et al. 2014, doi:10.1186/gb-2014-15-2-r29) of log2(sum + 2), in
    a linear model with the covariates; the classifier has them as columns, too. The guarantee of
    Benjamini and Hochberg is that of the test; what the classifier takes away is known from
    simulations only.

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
    _checks.adata.new_key(key_added)
    number_in(min_cells, "min_cells", 2, np.inf, whole=True)
    number_in(min_donors, "min_donors", 2, np.inf, whole=True)
    share(min_detected, "min_detected")
    number_in(alpha, "alpha", 1e-12, 0.5)
    if model is not None:
        is_model(model, ("ScBERTClassifier",))
    elif veto:
        raise ValueError("veto=True needs a model, whose opinion it is.")
    choice(design, get_args(Design), "design")
    classes = _classes(adata, groupby, design, has_model=model is not None)
    keys = column_names(covariates, "covariates")
    if taken := [key for key in keys if key in (groupby, donor_key)]:
        raise ValueError(f"{listed(taken)} is what is compared; take it out of covariates.")
    _check_samples(adata, sample_key, donor_key)
    excluded = resolver.known_in_data(exclude_genes, adata.var_names, "adata.var_names")
    target = _checks.adata.target(adata, copy=copy)
    if gene is not None:
        gene = params["gene"] = resolver.gene_in_data(gene, adata.var_names)
    params |= {"classes": classes, "exclude_genes": excluded, "covariates": keys}
    source = signature_data.read(adata, params, layer)
    source.data.check()
    record = signature_record.of(source.data, gene)
    if not classes and len(record["genes"]):
        record["slope"] = slope.facts(source.data.design, groupby)
    if model is not None and len(record["genes"]):
        from scbert_cll.tl._signature.network import network_evidence

        given = record["genes"], source, split_key, batch_size
        columns, facts = network_evidence(adata, model, *given)
        record |= facts
        signature_record.join_network(record, columns, veto=veto)
    if len(record["genes"]):
        record["arms"] = signature_record.variants(record["genes"], alpha, veto=veto)
    if design != "within":
        warnings.warn(_confounded(adata, source, params), stacklevel=3)
    params |= source.note | _checks.people.left_out(source.donors)
    _record.write(target, uns={key_added: record | {"params": params}})
    why = f": {record['reason']}" if record["reason"] else ""
    numbers = record["n_selected"], record["n_tested"], why
    logger.info("%d of %d genes selected%s.", *numbers)
    return target if copy else None


def _classes(adata: AnnData, groupby: str, design: Design, *, has_model: bool) -> list[str]:
    """The classes, in order; none where the column holds numbers, and a slope is asked for."""
    where = f"adata.obs[{groupby!r}]"
    if not slope.is_number(adata, groupby):
        classes = signature_data.classes_of(adata, groupby)
        if design == "within" or len(classes) == 2:
            return classes
        column, hint = adata.obs[groupby], ""
        if types.is_numeric_dtype(column):
            hint = f" For the slope over whole numbers take another unit, e.g. {where} / 100."
        what = f"compares two classes; {where} has {listed(classes)}"
        raise ValueError(f"design={design!r} {what}.{hint}")
    if has_model:
        raise ValueError(
            f"A classifier tells classes apart, and {where} holds numbers, over which the "
            "signature is a slope. Leave model out."
        )
    if design == "both":
        raise ValueError(
            f"design='both' joins differences between classes, and {where} holds numbers. Take "
            "their slope within donors or between them: design='within', design='between'."
        )
    return []


def _check_samples(adata: AnnData, sample_key: str | None, donor_key: str) -> None:
    """Refuse samples that are missing, or are the donors."""
    if sample_key is None:
        return
    samples = _checks.adata.obs_column(adata, sample_key, allow_missing=False)
    donors = _checks.adata.obs_column(adata, donor_key)
    if sample_key == donor_key or samples.groupby(donors, observed=True).nunique().max() < 2:
        raise ValueError(
            f"adata.obs[{sample_key!r}] has one sample of each donor, which is the donor again. "
            "Leave sample_key out."
        )


def _confounded(adata: AnnData, source: signature_data.Source, params: dict[str, Any]) -> str:
    """What may be in a signature between donors beside the class."""
    data, keys = source.data, params["covariates"]
    if data.number is not None:
        last, what = data.by_donor, "number"
    else:
        largest = data.n_cells.loc[data.sampled.index].idxmax(axis=1)
        last, what = largest == data.classes[-1], "class"
    taken = {params["groupby"], params["donor_key"], *keys}
    columns = covariates_of.associated(adata, source.donors, last, taken)[:_MOST_NAMED]
    near = f" These columns go with the {what} over donors: {', '.join(columns)}; adjust for them: "
    near += "covariates=[...]."
    but = f", but for {listed(keys)}" if keys else ""
    return (
        f"design={params['design']!r} compares donors with each other: whatever else tells them "
        f"apart (genotype, trisomy, batch, treatment) is in the signature, too{but}."
        f"{near if columns else ''}"
    )
