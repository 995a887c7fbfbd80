"""The whole workflow: counts → labels → donors held out → scBERT → predictions, genes, report.

It uses the package as a user would, through `import scbert_cll as sc_cll`, and scanpy for what
scanpy does.
"""

from __future__ import annotations

import dataclasses
import logging
import resource
import time
from functools import partial
from typing import Literal

import anndata as ad
import lightning.pytorch  # before its logger is told to be quiet: importing resets it
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData

import scbert_cll as sc_cll
from scbert_cll import _checks, _keys
from scbert_cll._cli.demo import figures as demo_figures
from scbert_cll._cli.demo import scores, signature
from scbert_cll._cli.demo.job import OUTPUTS, Job, Options, Report
from scbert_cll._cli.reading import CLL, Reading, choose, load, shared_names
from scbert_cll._cli.shared import donors_in, draw, learned, typed_gene
from scbert_cll._cli.words import in_options, options_of
from scbert_cll._disk.cells import write_cells
from scbert_cll._disk.formats import FigureError
from scbert_cll._disk.in_place import make_folder
from scbert_cll._protein import cite_seq
from scbert_cll.model.training.options import width

_PRETRAIN_EPOCHS = 10
_ONE_DONOR = "all_cells"  # the column that takes the place of one of donors
_PROTEINS = "protein_counts_of_the_demo"
_WIDE_PANEL = 12  # proteins from which the centred log-ratio within a cell is steady
_GENES = {"CD49d": "ITGA4"}


def run(options: Options, reading: Reading) -> None:
    """Run the whole workflow and write `options.out`: first all results, then the figures."""
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    start, report = time.perf_counter(), Report()
    job = _begin(options, reading, report)
    extra = None
    if options.pretrain_on is not None:  # in the same genes
        path = options.pretrain_on
        extra = choose(load(path), Reading(), where=path).rna
        extra = sc_cll.pp.align_genes(extra, list(job.adata.var_names))
        sc.pp.filter_cells(extra, min_counts=1)
    _label(job)
    _split(job)
    corpus = _bin(job, extra)
    pretrained = _pretrain(job, corpus)
    classifier = _finetune(job, pretrained)
    scores.evaluate(job, classifier)
    attention = signature.find(job, classifier)
    if _keys.TRUTH in job.adata.uns and options.input is None:
        signature.planted(job, classifier, attention)
    _write(job, classifier, attention)
    figures = demo_figures.plots(job, {"pretrain": pretrained, "finetune": classifier})
    failure, folder = None, options.out / "figures"
    files = {folder / f"{name}.png": plot for name, plot in figures.items()}
    try:
        draw(files, report.say)
    except FigureError as error:
        failure = error
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report.say(
        f"Done in {time.perf_counter() - start:.0f} s, {memory:.1f} GB at most. Everything is "
        f"in {options.out}."
    )
    report.write(options.out)
    if failure is not None:
        raise failure


def _begin(options: Options, reading: Reading, report: Report) -> Job:
    """Read the cells and refuse now what could not be done later."""
    if options.input is None:
        report.say(
            "Input: cll_toy, simulated CLL CITE-seq with a planted CD49d programme; six of "
            "ten donors are bimodal."
        )
        reading = dataclasses.replace(reading, cells=reading.cells or CLL)
        data = sc_cll.datasets.cll_toy(n_bimodal=6, rng=options.seed)
    else:
        data = load(options.input)
        report.say(f"Input: {options.input.name}.")
    where = options.input or "The object"
    columns = {"batch_key": options.batch_key}
    cells = choose(data, reading, columns, with_protein=True, where=where)
    for news in cells.news:
        report.say(news)
    adata = _checks.adata.target(_checks.adata.anndata(cells.rna), copy=False)
    _checks.counts.counts(adata, cells.layer)
    proteins = cite_seq.find(cells.data, reading.protein_key, cells.rna_key)
    cite_seq.lookup(proteins, options.marker)
    gene = typed_gene(adata, options.gene, _GENES.get(options.marker))
    donor_key = cells.donor_key
    if donor_key is None:
        report.say("All cells are taken to be of one donor, as --donor-key none says.")
        donor_key = _ONE_DONOR
        adata.obs[donor_key] = pd.Categorical(["one donor"] * adata.n_obs)
    return Job(options, reading, report, cells, donor_key, gene, proteins)


def _label(job: Job) -> None:
    """Label by protein; a marker without two populations is contrasted by its outer thirds."""
    options, n_proteins = job.options, len(job.proteins.names)
    normalize: Literal["clr_cell", "clr_protein"] = "clr_protein"
    if n_proteins >= _WIDE_PANEL:
        normalize = "clr_cell"
    label = partial(
        sc_cll.pp.label_cd49d,
        job.cells.data,
        normalize=normalize,
        marker=options.marker,
        donor_key=job.donor_key,
        batch_key=options.batch_key,
        protein_key=job.reading.protein_key,
        rna_key=job.cells.rna_key,
    )
    method = options.label
    try:
        label(method="quantile" if method == "quantile" else "gmm")
        method = "gmm" if method == "auto" else method
    except ValueError as error:
        if method != "auto":
            raise
        method = "quantile"
        label(method=method)  # so it is sure that the labels were what was refused
        refusal = in_options(str(error), options_of(Options, Reading))
        job.report.say(f"No labels by mixture: {refusal}")
    if method == "quantile":
        job.report.say(
            f"Labels are the outer thirds of the {options.marker} level: a contrast, not "
            f"clinical positivity."
        )
    counts = job.obs[_keys.CD49D].value_counts()
    numbers = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    how = f"{method} ({normalize}, {n_proteins} proteins)"
    job.report.say(f"{options.marker} by {how}: {numbers}")


def _split(job: Job) -> None:
    """Hold donors out where there are three, one of two, or cells of one; the report says which."""
    adata, donor_key = job.adata, job.donor_key
    n_donors = _checks.people.donors(adata, donor_key, quiet=True).nunique()
    seed = job.options.seed
    split = partial(sc_cll.pp.split_donors, adata, donor_key, labels_key=_keys.CD49D, rng=seed)
    if n_donors == 1:
        split(unit="cell")
        job.report.say(
            "Split by cell, stratified by class: with one donor nothing can be said of other "
            "patients (optimistic)."
        )
        return
    split(fractions=(0.6, 0.2, 0.2) if n_donors > 2 else (0.5, 0.0, 0.5), mixed=True)
    test = donors_in(adata, _keys.TEST)
    if n_donors > 2:
        held_out = f"held out for the test: {test}"
        job.report.say(f"Split by donor: {n_donors} donors; {held_out}.")
        return
    parts = job.obs[_keys.SPLIT].to_numpy(dtype=object, copy=True)
    train, rng = np.flatnonzero(parts == _keys.TRAIN), np.random.default_rng(seed)
    parts[rng.choice(train, len(train) // 5, replace=False)] = _keys.VAL
    adata.obs[_keys.SPLIT] = pd.Categorical(parts, categories=list(_keys.SPLIT_ORDER))
    job.report.say(
        f"Split by donor: two donors, {test} is held out; a fifth of the other's cells only "
        f"decides when pretraining stops and how strong the linear part's penalty is."
    )


def _bin(job: Job, extra: AnnData | None) -> AnnData:
    """Bin the cells; the cells to pretrain on, which are these, or with more RNA in these genes."""
    adata, layer = job.adata, job.cells.layer
    sc_cll.pp.bin_expression(adata, layer=layer)
    sc_cll.pp.balance(adata, _keys.CD49D)
    if extra is None or job.options.pretrain_on is None:
        return adata
    train = adata[job.obs[_keys.SPLIT] != _keys.TEST]
    counts = train.X if layer is None else train.layers[layer]
    genes = pd.DataFrame(index=train.var_names)
    here = AnnData(counts, pd.DataFrame(index=train.obs_names), genes)
    others = AnnData(extra.X, pd.DataFrame(index=extra.obs_names), genes)
    corpus = ad.concat({"here": here, "extra": others}, index_unique="-")
    parts = [*train.obs[_keys.SPLIT], *[_keys.TRAIN] * extra.n_obs]
    corpus.obs[_keys.SPLIT] = pd.Categorical(parts, categories=list(_keys.SPLIT_ORDER))
    sc_cll.pp.bin_expression(corpus)
    job.report.say(
        f"Pretraining also on {job.options.pretrain_on.name}: {extra.n_obs:,} "
        f"cells, {int(extra.var[_keys.IN_QUERY].sum()):,} shared genes."
    )
    return corpus


def _pretrain(job: Job, corpus: AnnData) -> sc_cll.ScBERT:
    options, rng = job.options, job.options.seed
    layer = job.cells.layer if corpus is job.adata else None
    sc_cll.tl.gene2vec(corpus, n_dims=width(), min_detected=0.0, layer=layer, rng=rng)
    n, where = options.max_epochs or _PRETRAIN_EPOCHS, options.accelerator
    pretrained = sc_cll.tl.pretrain(corpus, max_epochs=n, accelerator=where, rng=rng)
    job.report.say(f"Pretraining: {learned(pretrained)}")
    return pretrained


def _finetune(job: Job, pretrained: sc_cll.ScBERT) -> sc_cll.ScBERTClassifier:
    adata, n_proteins = job.adata, len(job.proteins.names)
    several = n_proteins > 1
    # to be learned with the class, and without names, which may be anything
    if several:
        adata.obsm[_PROTEINS] = job.proteins.values.toarray()
    try:
        classifier = sc_cll.tl.finetune(
            adata,
            pretrained,
            max_epochs=job.options.max_epochs,
            donor_key=job.donor_key,
            protein_key=_PROTEINS if several else None,
            accelerator=job.options.accelerator,
            rng=job.options.seed,
        )
    finally:
        adata.obsm.pop(_PROTEINS, None)
    train = (job.obs[_keys.SPLIT] == _keys.TRAIN) & job.obs[_keys.CD49D].notna()
    proteins = f", the levels of {n_proteins} proteins learned along with the class"
    job.report.say(
        f"Fine-tuning: {int(train.sum()):,} labelled training cells, "
        f"{len(classifier.history['train_loss'])} epochs{proteins * several}. "
        "What is predicted is the mean of the network's and a logistic regression's "
        "log-probabilities."
    )
    return classifier


def _write(job: Job, classifier: sc_cll.ScBERTClassifier, attention: pd.DataFrame) -> None:
    """Everything but the figures; what an earlier run left and this one has not made goes."""
    out = job.options.out
    make_folder(out)
    classifier.save(out / "model", overwrite=True)
    name = "annotated.h5mu" if isinstance(job.cells.data, MuData) else "annotated.h5ad"
    with shared_names():
        write_cells(out / name, job.cells.data)
    written = {name, "model", "figures", "report.md", "report.json"}
    for old in set(OUTPUTS) - written - signature.write(job, attention):
        (out / old).unlink(missing_ok=True)
    job.report.write(out)
