"""What the tests of the commands share: few cells, and what the commands make of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import pytest

import scbert_cll as sc_cll
from tests._cli.called import QUICK, run


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    names = (
        "",
        "scbert_cll",
        "scbert_cll.tl._signature.verb",
        "lightning.pytorch.utilities.rank_zero",
    )
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(log.handlers), list(log.filters), log.level) for log in loggers]
    yield
    for log, (handlers, filters, level) in zip(loggers, before, strict=True):
        log.handlers, log.filters = handlers, filters
        log.setLevel(level)


@pytest.fixture(scope="session")
def h5ad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few cells of eight donors with both classes, with bins, labels and a split."""
    folder = tmp_path_factory.mktemp("cells")
    adata = sc_cll.datasets.planted_donors(n_genes=60, rng=0)
    sc_cll.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sc_cll.pp.bin_expression(adata)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


@pytest.fixture(scope="session")
def models(h5ad: Path) -> Path:
    """A pretrained model and a classifier, made by the commands themselves."""
    folder = h5ad.parent
    assert run("pretrain", h5ad, "--out", folder / "m1", *QUICK, "--network.n_hidden", 8) == 0
    words = (
        "--pretrained",
        folder / "m1",
        "--labels-key",
        "label",
        "--max-epochs",
        1,
        "--accelerator",
        "cpu",
    )
    assert run("finetune", h5ad, "--out", folder / "m2", *words) == 0
    return folder


@pytest.fixture(scope="session")
def corpus(h5ad: Path) -> Path:
    """The donors in two files, brought to one corpus by the command."""
    pytest.importorskip("annbatch", reason="needs the extra corpus")
    adata = ad.read_h5ad(h5ad)
    adata = ad.AnnData(adata.X, adata.obs[["donor", "label"]], adata.var[[]])
    first = adata.obs["donor"].isin(sorted(adata.obs["donor"].unique())[:4]).to_numpy()
    files = [h5ad.with_name("a.h5ad"), h5ad.with_name("b.h5ad")]
    for file, mask in zip(files, (first, ~first), strict=True):
        adata[mask].write_h5ad(file)
    vocab, out = h5ad.with_name("genes.txt"), h5ad.with_name("corpus.zarr")
    vocab.write_text("".join(f"{gene}\n" for gene in adata.var_names))
    assert (
        run(
            "corpus",
            *files,
            "--out",
            out,
            "--vocab",
            vocab,
            "--obs-columns",
            "label",
            "--val-fraction",
            0.3,
        )
        == 0
    )
    return out
