"""The main job, end to end: counts → labels → donors held out → scBERT → predictions, signature, figures, report.

It uses the package as a user would, through `import scbert_cll as sc_cll`, and scanpy for what
scanpy does.
"""

from __future__ import annotations

import dataclasses
import logging
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import anndata as ad
import lightning.pytorch  # before its logger is told to be quiet: importing resets it
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData

import scbert_cll as sc_cll
from scbert_cll import _checks, _keys
from scbert_cll._checks.words import key_in
from scbert_cll._cli.demo import figures as demo_figures
from scbert_cll._cli.demo import scores, signature
from scbert_cll._cli.reading import ALL, CLL, OUTPUTS, Cells, Reading, choose, load, shared_names
from scbert_cll._cli.report import Report, draw
from scbert_cll._cli.words import in_options
from scbert_cll._disk.cells import write_cells
from scbert_cll._disk.formats import FigureError
from scbert_cll._disk.in_place import make_folder
from scbert_cll.model._network import width
from scbert_cll.pp import _protein

_PRETRAIN_EPOCHS = 10
_ONE_DONOR = "all_cells"  # the column that takes the place of one of donors
_PROTEINS = "protein_counts_of_the_demo"
_WIDE_PANEL = 12  # proteins from which the centred log-ratio within a cell is steady
_GENES = {"CD49d": "ITGA4"}
_OPTIONS: dict[str, tuple[str, ...]] = {f.name: () for f in dataclasses.fields(Reading)}
_OPTIONS |= {"batch_key": (), "gene": (), "marker": (), "label": ("auto", "gmm", "quantile")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    reading: Reading
    input: Path | None = None
    out: Path = Path("scbert_cll_demo")
    marker: str = "CD49d"
    gene: str | None = None
    batch_key: str | None = None
    label: str = "auto"
    pretrain_on: Path | None = None
    max_epochs: int | None = None
    seed: int = 0
    accelerator: str = "auto"


@dataclass(frozen=True)
class Job:
    """What is worked on: the cells, and what was found out about them before the work begins."""

    options: Options
    cells: Cells
    donor_key: str
    gene: str | None
    proteins: _protein.Protein

    @property
    def adata(self) -> AnnData:
        """The RNA."""
        return self.cells.rna

    @property
    def data(self) -> AnnData | MuData:
        """What is labelled, drawn and written."""
        return self.cells.data


def run(options: Options) -> Report:
    """Run the whole workflow and write `options.out`: first all results, then the figures."""
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    start, report = time.perf_counter(), Report()
    job = _begin(options, report)
    extra = _more_rna(job)
    _label(job, report)
    _split(job, report)
    pretrained, classifier = _train(job, _bin(job, extra, report), report)
    scores.evaluate(
        job.adata, classifier, report, donor_key=job.donor_key, gene=job.gene, seed=options.seed
    )
    found = signature.find(
        job.adata, classifier, report, donor_key=job.donor_key, gene=job.gene, marker=options.marker
    )
    if _keys.TRUTH in job.adata.uns and options.input is None:
        signature.planted(job.adata, classifier, f"{options.marker}+", report)
    _write(job, classifier, found, report)
    places = {
        "layer": job.cells.layer,
        "rna_key": job.cells.rna_key,
        "protein_key": options.reading.protein_key,
    }
    names: dict[str, Any] = {"donor_key": job.donor_key, "gene": job.gene, "marker": options.marker}
    models = {"pretrain": pretrained, "finetune": classifier}
    figures = demo_figures.plots(
        job.data, job.adata, models, places=places, seed=options.seed, **names
    )
    failed = None
    try:
        draw(
            {options.out / "figures" / f"{name}.png": plot for name, plot in figures.items()},
            report.say,
        )
    except FigureError as error:
        failed = error
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report.say(
        f"Done in {time.perf_counter() - start:.0f} s, {memory:.1f} GB at most. Everything is "
        f"in {options.out}."
    )
    report.write(options.out)
    if failed is not None:
        raise failed
    return report


def _begin(options: Options, report: Report) -> Job:
    """Read the cells and refuse now what could not be done later."""
    data = _data(options, report)
    asked = options.reading
    if asked.cells is None:
        asked = dataclasses.replace(asked, cells=CLL if options.input is None else ALL)
    where = "The object" if options.input is None else str(options.input)
    cells = choose(data, asked, columns=[options.batch_key], with_protein=True, where=where)
    for news in cells.news:
        report.say(news)
    adata = cells.rna
    _checks.counts.counts(
        _checks.adata.target(_checks.adata.anndata(adata), copy=False), cells.layer
    )
    protein = _protein.find(cells.data, asked.protein_key, cells.rna_key)
    _protein.lookup(protein, options.marker)
    if options.batch_key is not None:
        key_in(options.batch_key, _obs(adata), "adata.obs", "Name the column with --batch-key.")
    gene = options.gene
    if gene is not None:
        key_in(
            gene, adata.var_names, "adata.var_names", "Name the gene with --gene, or leave it out."
        )
    elif (usual := _GENES.get(options.marker)) in adata.var_names:
        gene = usual
    donor_key = cells.donor_key
    if donor_key is None:
        report.say("All cells are taken to be of one donor, as --donor-key none says.")
        donor_key = _ONE_DONOR
        adata.obs[donor_key] = pd.Categorical(["one donor"] * adata.n_obs)
    return Job(options, cells, donor_key, gene, protein)


def _data(options: Options, report: Report) -> AnnData | MuData:
    if options.input is None:
        report.say(
            "Input: cll_toy, simulated CLL CITE-seq with a planted CD49d programme; six of "
            "ten donors are bimodal."
        )
        return sc_cll.datasets.cll_toy(n_bimodal=6, rng=options.seed)
    data = load(options.input)
    report.say(f"Input: {options.input.name}.")
    return data


def _more_rna(job: Job) -> AnnData | None:
    """More cells to pretrain on, in the same genes."""
    path = job.options.pretrain_on
    if path is None:
        return None
    cells = choose(load(path), Reading(), where=str(path))
    extra = sc_cll.pp.align_genes(cells.rna, list(job.adata.var_names))
    sc.pp.filter_cells(extra, min_counts=1)
    return extra


def _obs(adata: AnnData) -> pd.DataFrame:
    return cast("pd.DataFrame", adata.obs)  # in memory it is one


def _label(job: Job, report: Report) -> None:
    """Labels from protein.

    Where the marker has no two populations, say so and contrast its outer thirds.
    """
    options, n_proteins = job.options, len(job.proteins.names)
    common: dict[str, Any] = {
        "marker": options.marker,
        "donor_key": job.donor_key,
        "batch_key": options.batch_key,
        "protein_key": options.reading.protein_key,
        "rna_key": job.cells.rna_key,
    }
    normalize: Literal["clr_cell", "clr_protein"] = (
        "clr_cell" if n_proteins >= _WIDE_PANEL else "clr_protein"
    )
    method = options.label
    if method in ("auto", "gmm"):
        try:
            sc_cll.pp.label_cd49d(job.data, method="gmm", normalize=normalize, **common)
            method = "gmm"
        except ValueError as refusal:
            if method == "gmm":
                raise
            method, why = "quantile", refusal
    if method == "quantile":
        sc_cll.pp.label_cd49d(job.data, method="quantile", normalize=normalize, **common)
        if options.label == "auto":  # only now it is sure that the labels were what was refused
            report.say(f"No labels by mixture: {in_options(str(why), 'demo', _OPTIONS)}")
        report.say(
            f"Labels are the outer thirds of the {options.marker} level: a contrast, not "
            f"clinical positivity."
        )
    n = _obs(job.adata)[_keys.CD49D].value_counts()
    report.say(
        f"{options.marker} by {method} ({normalize}, {n_proteins} proteins): "
        + ", ".join(f"{v:,} {k}" for k, v in n.items())
    )


def _split(job: Job, report: Report) -> None:
    """Donors held out where there are three, one of two held out, or cells of one.

    The report says which.
    """
    adata, donor_key, seed = job.adata, job.donor_key, job.options.seed
    n_donors = _checks.people.donors(adata, donor_key, quiet=True).nunique()
    common: dict[str, Any] = {"labels_key": _keys.CD49D, "rng": seed}
    if n_donors >= 3:
        sc_cll.pp.split_donors(adata, donor_key, fractions=(0.6, 0.2, 0.2), mixed=True, **common)
        report.say(f"Split by donor: {n_donors} donors; held out for the test: {_held_out(adata)}.")
    elif n_donors == 2:
        sc_cll.pp.split_donors(adata, donor_key, fractions=(0.5, 0.0, 0.5), mixed=True, **common)
        _validate_within_train(adata, seed)
        report.say(
            f"Split by donor: two donors, {_held_out(adata)} is held out; a fifth of the "
            f"other's cells only decides when pretraining stops and how strong the linear "
            f"part's penalty is."
        )
    else:
        sc_cll.pp.split_donors(adata, donor_key, unit="cell", **common)
        report.say(
            "Split by cell, stratified by class: with one donor nothing can be said of other "
            "patients (optimistic)."
        )


def _held_out(adata: AnnData) -> str:
    """Donors of the test part, with how many cells of each class they have."""
    donors = adata.uns[_keys.SPLIT]["donors"]
    return ", ".join(donors.loc[donors["split"] == _keys.TEST, "donor"].astype(str))


def _validate_within_train(adata: AnnData, seed: int) -> None:
    """A fifth of the training cells validates where no donor is left to."""
    train = np.flatnonzero(_obs(adata)[_keys.SPLIT] == _keys.TRAIN)
    chosen = np.random.default_rng(seed).choice(train, len(train) // 5, replace=False)
    split = _obs(adata)[_keys.SPLIT].to_numpy(dtype=object, copy=True)
    split[chosen] = _keys.VAL
    adata.obs[_keys.SPLIT] = pd.Categorical(split, categories=list(_keys.SPLIT_ORDER))


def _bin(job: Job, extra: AnnData | None, report: Report) -> AnnData:
    """Tokens; and the cells to pretrain on, which are these or more RNA in these genes."""
    adata, layer = job.adata, job.cells.layer
    sc_cll.pp.bin_expression(adata, layer=layer)
    sc_cll.pp.balance(adata, _keys.CD49D)
    if extra is None:
        return adata
    train = adata[_obs(adata)[_keys.SPLIT] != _keys.TEST]
    counts = train.X if layer is None else train.layers[layer]
    corpus = ad.concat(
        {
            "here": AnnData(counts, _obs(train)[[]], cast("pd.DataFrame", train.var)[[]]),
            "extra": AnnData(extra.X, _obs(extra)[[]], cast("pd.DataFrame", extra.var)[[]]),
        },
        index_unique="-",
    )
    corpus.obs[_keys.SPLIT] = pd.Categorical(
        [*_obs(train)[_keys.SPLIT], *[_keys.TRAIN] * extra.n_obs],
        categories=list(_keys.SPLIT_ORDER),
    )
    sc_cll.pp.bin_expression(corpus)
    report.say(
        f"Pretraining also on {cast('Path', job.options.pretrain_on).name}: {extra.n_obs:,} "
        f"cells, {int(extra.var[_keys.IN_QUERY].sum()):,} shared genes."
    )
    return corpus


def _train(job: Job, corpus: AnnData, report: Report) -> tuple[Any, Any]:
    options, adata = job.options, job.adata
    layer = job.cells.layer if corpus is adata else None
    sc_cll.tl.gene2vec(corpus, n_dims=width(), min_detected=0.0, layer=layer, rng=options.seed)
    common: dict[str, Any] = {"accelerator": options.accelerator, "rng": options.seed}
    pretrained = sc_cll.tl.pretrain(
        corpus, max_epochs=options.max_epochs or _PRETRAIN_EPOCHS, **common
    )
    best = {
        name: float(frame.iloc[:, 0].max())
        for name, frame in pretrained.history.items()
        if "accuracy" in name
    }
    report.say(
        f"Pretraining: {best['masked_accuracy_validation']:.1%} of hidden genes in the right "
        f"bin at best; "
        f"guessing each cell's commonest bin gets {best['majority_accuracy_validation']:.1%}."
    )
    n_train = int(
        ((_obs(adata)[_keys.SPLIT] == _keys.TRAIN) & _obs(adata)[_keys.CD49D].notna()).sum()
    )
    n_proteins = len(job.proteins.names)
    several = n_proteins > 1
    if several:  # to be learned beside the class, and without names, which may be anything
        adata.obsm[_PROTEINS] = job.proteins.values.toarray()
    try:
        asked: dict[str, Any] = {
            "donor_key": job.donor_key,
            "protein_key": _PROTEINS if several else None,
        }
        classifier = sc_cll.tl.finetune(
            adata, pretrained, max_epochs=options.max_epochs, **asked, **common
        )
    finally:
        adata.obsm.pop(_PROTEINS, None)
    report.say(
        f"Fine-tuning: {n_train:,} labelled training cells, "
        f"{len(classifier.history['train_loss'])} epochs"
        f"{f', the levels of {n_proteins} proteins learned along with the class' if several else ''}. "
        "What is predicted is the mean of the network's and a logistic regression's "
        "log-probabilities."
    )
    return pretrained, classifier


def _write(job: Job, classifier: Any, found: signature.Found, report: Report) -> None:
    """Everything but the figures; what an earlier run left and this one has not made goes."""
    out = job.options.out
    make_folder(out)
    classifier.save(out / "model", overwrite=True)
    name = "annotated.h5mu" if isinstance(job.data, MuData) else "annotated.h5ad"
    with shared_names():
        write_cells(out / name, job.data)
    written = {
        "model",
        name,
        "figures",
        "report.md",
        "report.json",
        *signature.write(job.adata, found, out),
    }
    for old in set(OUTPUTS) - written:
        (out / old).unlink(missing_ok=True)
    report.write(out)
