"""The main job, end to end: counts → labels → donors held out → scBERT → predictions, signature, figures, report.

It uses the package as a user would, through `import scbert_cll as sc_cll`, and scanpy for what scanpy does.
"""

from __future__ import annotations

import logging
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import anndata as ad
import lightning.pytorch  # before its logger is told to be quiet: importing resets it
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import seaborn as sns
from anndata import AnnData
from mudata import MuData, read_h5mu

import scbert_cll as sc_cll
from scbert_cll import _baselines, _checks, _demo_signature, _keys, _record
from scbert_cll._report import Report
from scbert_cll.model._base import width
from scbert_cll.pp import _protein

_PRETRAIN_EPOCHS = 10
_PROTEIN = "protein"
_WIDE_PANEL = 12  # proteins from which the centred log-ratio within a cell is steady


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    input: Path | None = None
    out: Path = Path("scbert_cll_demo")
    marker: str = "CD49d"
    gene: str = "ITGA4"
    donor_key: str = _keys.DONOR
    batch_key: str | None = None
    label: str = "auto"
    cells: str | None = None
    pretrain_on: Path | None = None
    max_epochs: int | None = None
    seed: int = 0
    accelerator: str = "auto"


def run(options: Options) -> Report:
    """Run the whole workflow and write `options.out`."""
    logging.getLogger(lightning.pytorch.__name__).setLevel(logging.WARNING)
    start, report = time.perf_counter(), Report()
    figures = options.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    data = _read(options, report)
    protein = _protein.find(data, None)
    adata, n_proteins = protein.rna, len(protein.names)
    if _PROTEIN not in adata.obsm and n_proteins > 1:  # to be learned beside the class
        counts = protein.values.toarray()
        of_protein = pd.DataFrame(counts, index=adata.obs_names, columns=protein.names.astype(str))
        _record.write(adata, obsm={_PROTEIN: of_protein})
    _label(data, adata, n_proteins, options, report)
    _split(adata, options, report)
    corpus = _bin(adata, options, report)
    pretrained, classifier = _train(adata, corpus, options, report)
    _evaluate(adata, options, report)
    _genes(adata, classifier, options, report)
    _draw(data, adata, {"pretrain": pretrained, "finetune": classifier}, options, figures)
    classifier.save(options.out / "model", overwrite=True)
    _write(data, options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report.say(f"Done in {time.perf_counter() - start:.0f} s, {memory:.1f} GB at most. Everything is in {options.out}.")
    report.write(options.out)
    return report


def _read(options: Options, report: Report) -> AnnData | MuData:
    if options.input is None:
        report.say(
            "Input: cll_toy, simulated CLL CITE-seq with a planted CD49d programme; six of ten donors are bimodal."
        )
        return sc_cll.datasets.cll_toy(n_bimodal=6, rng=options.seed)
    suffix = _checks.choice(options.input.suffix, [".h5mu", ".h5ad"], "the ending of --input")
    report.say(f"Input: {options.input.name}.")
    with _shared_names():
        return read_h5mu(options.input) if suffix == ".h5mu" else ad.read_h5ad(options.input)


@contextmanager
def _shared_names() -> Iterator[None]:
    """No warning of a protein that has its gene's name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="var_names are not unique", category=UserWarning)
        yield


def _obs(adata: AnnData) -> pd.DataFrame:
    return cast("pd.DataFrame", adata.obs)  # in memory it is one


def _label(data: AnnData | MuData, adata: AnnData, n_proteins: int, options: Options, report: Report) -> None:
    """Labels from protein; where the marker has no two populations, say so and contrast its outer thirds."""
    if options.donor_key not in adata.obs:
        report.say(f"No column obs[{options.donor_key!r}]: all cells are taken to be of one donor.")
        adata.obs[options.donor_key] = pd.Categorical(["unknown"] * adata.n_obs)
    cells = None
    if (options.cells or ("cll" if options.input is None else "all")) == "cll":
        cells = sc_cll.pp.cll_mask(data)
        report.say(f"CD19+CD5+ by protein: {int(cells.sum()):,} of {adata.n_obs:,} cells; only these are labelled.")
    common: dict[str, Any] = {
        "marker": options.marker,
        "donor_key": options.donor_key,
        "batch_key": options.batch_key,
        "cells": cells,
    }
    normalize: Literal["clr_cell", "clr_protein"] = "clr_cell" if n_proteins >= _WIDE_PANEL else "clr_protein"
    method = options.label
    if method in ("auto", "gmm"):
        try:
            sc_cll.pp.label_cd49d(data, method="gmm", normalize=normalize, **common)
            method = "gmm"
        except ValueError as refusal:
            if method == "gmm":
                raise
            report.say(f"No labels by mixture: {refusal}")
            method = "quantile"
    if method == "quantile":
        sc_cll.pp.label_cd49d(data, method="quantile", normalize=normalize, **common)
        report.say(f"Labels are the outer thirds of the {options.marker} level: a contrast, not clinical positivity.")
    n = _obs(adata)[_keys.CD49D].value_counts()
    report.say(
        f"{options.marker} by {method} ({normalize}, {n_proteins} proteins): "
        + ", ".join(f"{v:,} {k}" for k, v in n.items())
    )


def _split(adata: AnnData, options: Options, report: Report) -> None:
    """Donors held out where there are three, one of two held out, or cells of one; the report says which."""
    donor_key = options.donor_key
    n_donors = adata.obs[donor_key].nunique()
    common: dict[str, Any] = {"labels_key": _keys.CD49D, "rng": options.seed}
    if n_donors >= 3:
        sc_cll.pp.split_donors(adata, donor_key, fractions=(0.6, 0.2, 0.2), **common)
        held = ", ".join(sorted(_obs(adata).loc[_obs(adata)[_keys.SPLIT] == _keys.TEST, donor_key].unique()))
        report.say(f"Split by donor: {n_donors} donors; held out for the test: {held}.")
    elif n_donors == 2:
        sc_cll.pp.split_donors(adata, donor_key, fractions=(0.5, 0.0, 0.5), **common)
        _validate_within_train(adata, options.seed)
        held = _obs(adata).loc[_obs(adata)[_keys.SPLIT] == _keys.TEST, donor_key].iloc[0]
        report.say(
            f"Split by donor: two donors, {held} is held out; a fifth of the other's cells only decides when pretraining stops and how strong the linear part's penalty is."
        )
    else:
        sc_cll.pp.split_donors(adata, donor_key, unit="cell", **common)
        report.say(
            "Split by cell, stratified by class: with one donor nothing can be said of other patients (optimistic)."
        )


def _validate_within_train(adata: AnnData, seed: int) -> None:
    """A fifth of the training cells validates where no donor is left to."""
    train = np.flatnonzero(_obs(adata)[_keys.SPLIT] == _keys.TRAIN)
    chosen = np.random.default_rng(seed).choice(train, len(train) // 5, replace=False)
    split = _obs(adata)[_keys.SPLIT].to_numpy(dtype=object, copy=True)
    split[chosen] = _keys.VAL
    adata.obs[_keys.SPLIT] = pd.Categorical(split, categories=list(_keys.SPLIT_ORDER))


def _bin(adata: AnnData, options: Options, report: Report) -> AnnData:
    """Tokens; and the cells to pretrain on, which are these or more RNA in these genes."""
    sc_cll.pp.bin_expression(adata)
    sc_cll.pp.balance(adata, _keys.CD49D)
    if options.pretrain_on is None:
        return adata
    extra = sc_cll.pp.align_genes(ad.read_h5ad(options.pretrain_on), list(adata.var_names))
    sc.pp.filter_cells(extra, min_counts=1)
    train = adata[_obs(adata)[_keys.SPLIT] != _keys.TEST]
    corpus = ad.concat(
        {
            "here": AnnData(train.X, _obs(train)[[]], cast("pd.DataFrame", train.var)[[]]),
            "extra": extra[:, train.var_names],
        },
        index_unique="-",
    )
    corpus.obs[_keys.SPLIT] = pd.Categorical(
        [*_obs(train)[_keys.SPLIT], *[_keys.TRAIN] * extra.n_obs], categories=list(_keys.SPLIT_ORDER)
    )
    sc_cll.pp.bin_expression(corpus)
    report.say(
        f"Pretraining also on {options.pretrain_on.name}: {extra.n_obs:,} cells, {int(extra.var[_keys.IN_QUERY].sum()):,} shared genes."
    )
    return corpus


def _train(adata: AnnData, corpus: AnnData, options: Options, report: Report) -> tuple[Any, Any]:
    sc_cll.tl.gene2vec(corpus, n_dims=width(), min_detected=0.0, rng=options.seed)
    common: dict[str, Any] = {"accelerator": options.accelerator, "rng": options.seed}
    pretrained = sc_cll.tl.pretrain(corpus, max_epochs=options.max_epochs or _PRETRAIN_EPOCHS, **common)
    best = {name: float(frame.iloc[:, 0].max()) for name, frame in pretrained.history.items() if "accuracy" in name}
    report.say(
        f"Pretraining: {best['masked_accuracy_validation']:.1%} of hidden genes in the right bin at best; "
        f"guessing each cell's commonest bin gets {best['majority_accuracy_validation']:.1%}."
    )
    n_train = int(((_obs(adata)[_keys.SPLIT] == _keys.TRAIN) & _obs(adata)[_keys.CD49D].notna()).sum())
    protein_key = _PROTEIN if _PROTEIN in adata.obsm else None
    classifier = sc_cll.tl.finetune(
        adata, pretrained, max_epochs=options.max_epochs, donor_key=options.donor_key, protein_key=protein_key, **common
    )
    beside = (
        "" if protein_key is None else f", the levels of {adata.obsm[protein_key].shape[1]} proteins beside the class"
    )
    report.say(
        f"Fine-tuning: {n_train:,} labelled training cells, {len(classifier.history['train_loss'])} epochs{beside}. "
        "What is predicted is the mean of the network's and a logistic regression's log-probabilities."
    )
    return pretrained, classifier


def _evaluate(adata: AnnData, options: Options, report: Report) -> None:
    """Score scBERT beside what costs nothing, on the same training and test cells."""
    scores = _baselines.compare(adata, gene=options.gene, seed=options.seed)
    report.show("Test cells, never trained on", scores)
    f1 = {str(name): float(value) for name, value in scores["macro_f1"].items() if name != "its network alone"}
    ours = f1.pop("scBERT")
    best = max(f1, key=lambda name: f1[name])
    gap = ours - f1[best]
    word = "ahead of" if gap > 0.01 else "behind" if gap < -0.01 else "level with"
    report.say(f"On this one split scBERT is {word} the best of the others, {best} ({gap:+.3f} macro-F1).")
    report.show(
        "Percent positive of labelled test cells, by donor",
        _baselines.by_donor(adata, options.donor_key),
    )


def _genes(adata: AnnData, classifier: Any, options: Options, report: Report) -> None:
    """The signature and the ranking by attention; planted genes are counted where they are known."""
    group = f"{options.marker}+"
    _demo_signature.attention(adata, classifier, group, options.out)
    names: dict[str, str] = {"donor_key": options.donor_key, "gene": options.gene, "marker": options.marker}
    _demo_signature.signature(adata, classifier, report, out=options.out, **names)
    if _keys.TRUTH in adata.uns and options.input is None:
        _demo_signature.planted(adata, classifier, group, report)


def _draw(data: AnnData | MuData, adata: AnnData, models: dict[str, Any], options: Options, figures: Path) -> None:
    mpl.use("agg")
    truth = adata.uns[_keys.TRUTH]["gene"].tolist() if _keys.TRUTH in adata.uns else None
    plots: dict[str, Callable[[], Any]] = {
        "signature": lambda: sc_cll.pl.signature(adata, return_fig=True),
        "gene_attention": lambda: sc_cll.pl.gene_attention(
            adata, groups=f"{options.marker}+", highlight=truth, highlight_label="planted", return_fig=True
        ),
        "confusion": lambda: sc_cll.pl.confusion(adata, return_fig=True),
        "umap": lambda: _umap(adata, options),
    }
    for name, model in models.items():
        plots[f"history_{name}"] = partial(sc_cll.pl.history, model, return_fig=True)
    if options.gene in adata.var_names:
        plots["cd49d"] = lambda: sc_cll.pl.cd49d(
            data,
            marker=options.marker,
            gene=options.gene,
            donor_key=options.donor_key,
            cells=_obs(adata)[_keys.score(_keys.CD49D)].notna(),
            normalize=adata.uns[_keys.CD49D]["params"]["normalize"],
            return_fig=True,
        )
    for name, plot in plots.items():
        figure = plot()
        figure.savefig(figures / f"{name}.png", dpi=200, bbox_inches="tight")
        plt.close(figure)


def _umap(adata: AnnData, options: Options) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba speak of their own internals
        sc.pp.neighbors(adata, use_rep=_keys.X_SCBERT, random_state=options.seed)
        sc.tl.umap(adata, random_state=options.seed)
        donor_key = options.donor_key
        panels = {_keys.PRED: "predicted", _keys.CD49D: f"{options.marker} protein", donor_key: "donor"}
        if _obs(adata)[donor_key].nunique() == 1:
            del panels[donor_key]
        palette = sns.color_palette("colorblind").as_hex()
        with mpl.rc_context({"figure.figsize": (2.6, 2.6), "font.size": 8}):
            return sc.pl.umap(
                adata,
                color=list(panels),
                title=list(panels.values()),
                palette=palette,
                size=12,
                frameon=False,
                wspace=0.45,
                return_fig=True,
                show=False,
            )


def _write(data: AnnData | MuData, options: Options) -> None:
    name = "annotated.h5mu" if isinstance(data, MuData) else "annotated.h5ad"
    with _shared_names():
        data.write(options.out / name)
