"""Law: wherever a gene is named, every name of it is that gene, and no name is another gene.

Every door takes a former symbol and an Ensembl id. A name that several genes have had is refused,
or counted as missing, and a name that is in the data as it is, is that one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll._cli.shared import typed_gene
from scbert_cll._gene_names.table import shipped
from scbert_cll._signature.gene_sets import read
from tests._make import FAST, cells

pp, tl, pl = sc_cll.pp, sc_cll.tl, sc_cll.pl
GENE, FORMER, ID, SHARED = "MARCHF1", "MARCH1", "ENSG00000145416", "COX2"
OTHERS = ("CD19", "PTGS2", "MT-CO2", "ITGA4", "CD5", "CXCR4", "BTK", "SYK", "LYN", "CD38")
GENES = ["CD79A", GENE, *OTHERS]
NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned", "rng": 0}
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in ("1 of the 2 genes of the sig", ".*there is little to attribute", ".*is not in ada")
]


@cache
def _cells() -> AnnData:
    return cells(144, genes=GENES, n_donors=6, protein=True, binned=True)


def data(**renamed: str) -> AnnData:
    adata = _cells().copy()
    adata.var_names = [renamed.get(gene.replace("-", "_"), gene) for gene in adata.var_names]
    for key in ("n_genes", "genes_digest"):
        del adata.uns["binned"]["params"][key]
    pp.bin_expression(adata)
    return adata


def model(adata: AnnData) -> sc_cll.ScBERTClassifier:
    """Trained for a moment: what it says does not matter here."""
    adata = adata.copy()
    sc_cll.ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    classifier = sc_cll.ScBERTClassifier(adata, **NETWORK)
    classifier.train(split_key="split", **FAST)
    return classifier


@cache
def _models() -> dict[tuple[str, ...], sc_cll.ScBERTClassifier]:
    return {}


def of(adata: AnnData) -> sc_cll.ScBERTClassifier:
    key = tuple(adata.var_names)
    if key not in _models():
        _models()[key] = model(adata)
    return _models()[key]


def signature(adata: AnnData, **options: Any) -> pd.DataFrame:
    tl.signature(adata, min_cells=5, **options)
    return adata.uns["signature"]["genes"]


def by_vocab(adata: AnnData, name: str) -> set[str]:
    resolved = sc_cll.vocab.GeneVocab([name]).resolve(adata.var_names)
    return set(resolved.loc[resolved["index"] == 0, "name"])


def by_alignment(adata: AnnData, name: str) -> set[str]:
    try:
        aligned = pp.align_genes(adata, [name, "CD5"])
    except ValueError:
        return set()
    column = aligned.X.toarray()[:, 0]
    is_same = (adata.X.toarray() == column[:, None]).all(axis=0)
    return set(adata.var_names[is_same])


def marker(adata: AnnData, name: str) -> set[str]:
    table = signature(adata, gene=name)
    return set(table.loc[table["family"] == "marker", "gene"])


def excluded_from_a_signature(adata: AnnData, name: str) -> set[str]:
    whole = set(signature(adata.copy())["gene"])
    return whole - set(signature(adata, exclude_genes=[name])["gene"])


def excluded_from_a_model(adata: AnnData, name: str) -> set[str]:
    sc_cll.ScBERT.setup_anndata(adata, exclude_genes=[name])
    return set(adata.var_names) - set(sc_cll.ScBERT(adata, **NETWORK).genes)


def excluded_by_finetune(adata: AnnData, name: str) -> set[str]:
    network = {key: value for key, value in NETWORK.items() if key != "rng"}
    trained = tl.finetune(adata, exclude_genes=[name], network=network, **FAST)
    return set(adata.var_names) - set(trained.genes)


def excluded_by_pretrain(adata: AnnData, name: str) -> set[str]:
    options = {"gene_embedding": "learned", "network": {"n_hidden": 8, "n_heads": 2}}
    trained = tl.pretrain(adata, exclude_genes=[name], **options, **FAST)
    return set(adata.var_names) - set(trained.genes)


def scored(adata: AnnData, name: str) -> set[str]:
    tl.score_signature(adata, [name, "CD5"])
    table = adata.uns["signature_score"]["genes"]
    return set(table.loc[table["found"], "name"]) - {"CD5"}


def of_a_baseline(adata: AnnData, name: str) -> set[str]:
    estimator = sc_cll.estimators.baselines(name)["gene_only"]
    estimator.fit(adata, adata.obs["cd49d"], adata.obs["donor"])
    return {estimator.gene_} if estimator.has_gene_ else set()


def cross_validated(adata: AnnData, name: str) -> set[str]:
    tl.cross_validate(adata, models=["majority"], gene=name, n_repeats=1, n_bootstrap=1)
    return {adata.uns["cv"]["params"]["gene"]} & set(adata.var_names)


def perturbed(adata: AnnData, name: str) -> set[str]:
    tl.perturb(adata, of(adata), [name], min_cells=1)
    return set(adata.varm["perturb"].dropna(how="all").index)


def occluded(adata: AnnData, name: str) -> set[str]:
    tl.gene_attribution(adata, of(adata), method="occlusion", genes=[name], n_cells=5)
    return set(adata.varm["gene_attribution"].dropna(how="all").index)


def occluded_together(adata: AnnData, name: str) -> set[str]:
    classifier, sets = of(adata), {"asked": [name]}
    sets |= {gene: [gene] for gene in adata.var_names}
    options = {"method": "group_occlusion", "gene_sets": sets, "n_cells": 5}
    tl.gene_attribution(adata, classifier, **options)
    effects = adata.uns["gene_attribution_sets"]["effects"]
    is_same = np.isclose(effects, effects.loc["asked"], rtol=1e-4, atol=0).all(axis=1)
    return set(effects.index[is_same]) - {"asked"}


def interacting(adata: AnnData, name: str) -> set[str]:
    tl.gene_interactions(adata, of(adata), [name, "CD5"])
    pairs = adata.uns["gene_interactions"]["pairs"]
    return {*pairs["a"], *pairs["b"]} - {"CD5"}


def attended_to(adata: AnnData, name: str) -> set[str]:
    classifier, groups = of(adata), adata.obs["cd49d"]
    asked = classifier.attention_to([name], groups, adata)
    alone = {gene: classifier.attention_to([gene], groups, adata) for gene in adata.var_names}
    return {gene for gene, table in alone.items() if table.equals(asked)}


def with_vectors(adata: AnnData, name: str) -> set[str]:
    vectors = pd.DataFrame(np.ones((1, 3)), index=[name])
    tl.gene2vec(adata, vectors=vectors, min_matched=0.01)
    assert adata.uns["gene2vec"]["n_genes_renamed"] == int(name not in adata.var_names)
    return set(adata.var_names[adata.varm["gene2vec"].any(axis=1)])


def drawn(adata: AnnData, name: str) -> set[str]:
    ax = pl.cd49d(adata, gene=name, levels="cell", show=False)
    plt.close(ax.figure)
    return {ax.get_xlabel().split()[0]}


def drawn_of_a_signature(adata: AnnData, name: str) -> set[str]:
    signature(adata)
    ax = pl.signature(adata, genes=[name], show=False)
    plt.close(ax.figure)
    return {label.get_text() for label in ax.get_yticklabels()} & set(adata.var_names)


def prognostic(adata: AnnData, name: str) -> set[str]:
    patients = sc_cll.datasets.cll_cohort(n_patients=60, n_genes=172)
    genes = [*adata.var_names, *(f"REST{i}" for i in range(172 - adata.n_vars))]
    patients.var_names = genes
    asked = {"time_key": "TTT", "event_key": "treated", "n_random": 20, "n_bootstrap": 0}
    tl.prognosis(patients, [name], gene=None, **asked)
    r = np.corrcoef(patients.obs["prognosis_score"], patients.X, rowvar=False)[0, 1:]
    return set(patients.var_names[np.isclose(r, 1)])


def in_sets(adata: AnnData, name: str) -> set[str]:
    """As the report of a signature reads them."""
    return set(read({"asked": [name, "CD5"]}, adata.var_names)["asked"]) & set(adata.var_names) - {
        "CD5"
    }


def typed(adata: AnnData, name: str) -> set[str]:
    return {str(typed_gene(adata, name, None))}


DOORS: dict[str, Callable[[AnnData, str], set[str]]] = {
    "vocab.GeneVocab.resolve": by_vocab,
    "pp.align_genes": by_alignment,
    "tl.signature(gene=)": marker,
    "tl.signature(exclude_genes=)": excluded_from_a_signature,
    "ScBERT.setup_anndata": excluded_from_a_model,
    "tl.finetune": excluded_by_finetune,
    "tl.pretrain": excluded_by_pretrain,
    "tl.score_signature": scored,
    "estimators.baselines": of_a_baseline,
    "tl.cross_validate": cross_validated,
    "tl.perturb": perturbed,
    "tl.gene_attribution(genes=)": occluded,
    "tl.gene_attribution(gene_sets=)": occluded_together,
    "tl.gene_interactions": interacting,
    "ScBERT.attention_to": attended_to,
    "tl.gene2vec": with_vectors,
    "pl.cd49d": drawn,
    "pl.signature": drawn_of_a_signature,
    "tl.prognosis": prognostic,
    "tl.signature_report": in_sets,
    "--gene": typed,
}


def answer(door: str, adata: AnnData, name: str) -> set[str] | str:
    """The genes that were taken, or what a refusal says."""
    try:
        return DOORS[door](adata, name)
    except (KeyError, ValueError) as error:
        return str(error)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [GENE, FORMER, ID])
def test_every_name_of_a_gene_is_that_gene(door: str, name: str) -> None:
    assert DOORS[door](data(), name) == {GENE}


@pytest.mark.parametrize("door", DOORS)
def test_a_name_of_several_genes_is_none_of_them(door: str) -> None:
    taken = answer(door, data(), SHARED)
    assert SHARED in taken if isinstance(taken, str) else taken == set()


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_is_there_is_that_one(door: str) -> None:
    """Also where the gene that had it is there as well."""
    adata = data(CD79A=FORMER, PTGS2=SHARED)
    for name in (FORMER, SHARED):
        assert DOORS[door](adata.copy(), name) == {name}


# ---- every public argument that names genes

ARGUMENTS = {
    "exclude_genes",
    "gene",
    "gene2vec",
    "gene_sets",
    "gene_vectors",
    "genes",
    "signature",
    "sets",
    "vectors",
    "vocab",
}
# what goes through one of the doors above, and what takes no names of a data set's genes
THROUGH: dict[str, str] = {
    "estimators.ScBERTEstimator exclude_genes": "ScBERT.setup_anndata",
    "estimators.available gene": "estimators.baselines",
    "estimators.scbert_arms gene": "estimators.baselines",
    "estimators.scbert_variants gene": "ScBERT.setup_anndata",
    "pl.signature_heatmap genes": "pl.signature",
    "tl.prognosis gene": "tl.prognosis",
    "ScBERTClassifier.attention_to genes": "ScBERT.attention_to",
    "ScBERTClassifier.get_gene_occlusion genes": "tl.gene_attribution(genes=)",
    "ScBERTClassifier.get_set_effects sets": "tl.gene_attribution(gene_sets=)",
    "ScBERTClassifier.perturb_genes genes": "tl.perturb",
    "ScBERTClassifier.setup_anndata exclude_genes": "ScBERT.setup_anndata",
    "tl.signature gene": "tl.signature(gene=)",
    "tl.signature exclude_genes": "tl.signature(exclude_genes=)",
    "tl.gene_attribution genes": "tl.gene_attribution(genes=)",
    "tl.gene_attribution gene_sets": "tl.gene_attribution(gene_sets=)",
}
ELSEWHERE: dict[str, str] = {
    "io.write_csv signature": "writes the names as they are",
    "io.write_gmt signature": "writes the names as they are",
    **{
        f"{kind}.from_scbert_checkpoint {argument}": "positions are fixed, names are exact"
        for kind in ("ScBERT", "ScBERTClassifier")
        for argument in ("vocab", "gene2vec")
    },
    "CorpusData.attach genes": "those of a model",
    "CorpusData.count genes": "those of a model",
    **{
        f"{kind}.from_corpus {argument}": "below, with a corpus"
        for kind in ("ScBERT", "ScBERTClassifier")
        for argument in ("exclude_genes", "gene_vectors")
    },
    "pp.build_corpus vocab": "below, with a corpus",
    "tl.pretrain gene_vectors": "below, with a corpus",
}


def _arguments() -> Iterator[str]:
    """Every public function and method with an argument that names genes."""
    spaces = ("pp", "tl", "pl", "get", "io", "datasets", "estimators")
    members = [
        (f"{space}.{name}", getattr(getattr(sc_cll, space), name))
        for space in spaces
        for name in getattr(sc_cll, space).__all__
    ]
    for kind in (sc_cll.ScBERT, sc_cll.ScBERTClassifier, sc_cll.model.CorpusData):
        names = [name for name in dir(kind) if not name.startswith("_")]
        methods = [(f"{kind.__name__}.{name}", getattr(kind, name)) for name in names]
        members += [
            (path, method)
            for path, method in methods
            if getattr(method, "__module__", "").startswith("scbert_cll")
        ]
    for path, function in members:
        if callable(function):
            for argument in inspect.signature(function).parameters:
                if argument in ARGUMENTS:
                    yield f"{path} {argument}"


def test_every_argument_that_names_genes_is_tried() -> None:
    tried = {argument for argument in _arguments() if argument.split()[0] in DOORS}
    assert set(_arguments()) - tried == {*THROUGH, *ELSEWHERE} - tried
    assert set(THROUGH.values()) <= set(DOORS)


# ---- cells for a model


@pytest.fixture(scope="module")
def expected() -> tuple[sc_cll.ScBERTClassifier, pd.DataFrame]:
    adata = data()
    tl.predict(adata, of(data()))
    return of(data()), adata.obsm["scbert_proba"]


def test_cells_are_predicted_under_a_former_name(expected, caplog) -> None:
    model, proba = expected
    adata = data(MARCHF1=FORMER)
    with caplog.at_level("INFO", "scbert_cll"):
        tl.predict(adata, model)
    pd.testing.assert_frame_equal(adata.obsm["scbert_proba"], proba)
    record = adata.uns["scbert_predict"]
    assert record["n_genes_missing"] == 0
    assert record["n_genes_renamed"] == 1
    assert record["named_by"] == "index"
    share = adata.layers["binned"][:, 1].nnz / adata.layers["binned"].nnz
    assert record["tokens_renamed"] == pytest.approx(share)
    assert "1 of the model's 12 genes have another name in the data (index)" in caplog.text
    assert FORMER in adata.var_names


@pytest.mark.parametrize("column", [None, "feature_name"])
def test_cells_under_ids_are_predicted(column, expected) -> None:
    """As CELLxGENE has them, with symbols in a column or without."""
    model, proba = expected
    approved = shipped().approved
    ids = {symbol: name for name, symbol in approved.items() if name.startswith("ENSG")}
    renamed = {gene.replace("-", "_"): ids[gene] for gene in GENES}
    if column is not None:  # ids that no table knows
        renamed = {gene: f"ENSG0000099{i:04d}" for i, gene in enumerate(renamed)}
    adata = data(**renamed)
    assert adata.var_names.str.startswith("ENSG").all()
    if column is not None:
        adata.var[column] = GENES
    tl.predict(adata, model)
    pd.testing.assert_frame_equal(adata.obsm["scbert_proba"], proba)
    assert adata.uns["scbert_predict"]["n_genes_renamed"] == 12
    assert adata.uns["scbert_predict"]["named_by"] == (column or "index")


ONE_MISSING = pytest.mark.filterwarnings("ignore:1 of the model's 12 genes are not in adata")


@ONE_MISSING
def test_a_name_of_several_genes_is_no_gene_of_a_model(expected) -> None:
    model, _ = expected
    with pytest.raises(ValueError, match=r"not among the model's: 'COX2'.*pp\.align_genes"):
        tl.predict(data(PTGS2=SHARED), model)


@ONE_MISSING
def test_a_gene_that_is_there_is_no_other_one(expected) -> None:
    """MARCH1 beside MARCHF1 is another gene than that, which is asked for."""
    model, _ = expected
    with pytest.raises(ValueError, match=r"not among the model's: 'MARCH1'"):
        tl.predict(data(CD79A=FORMER), model)


def test_a_mixed_index_is_named_by_share(expected) -> None:
    model, _ = expected
    ids = {"CD19": "ENSG00000177455", "ITGA4": "ENSG00000115232", "CD5": "ENSG00000110448"}
    adata = data(**ids)
    with pytest.raises(ValueError, match=r"mixes symbols \(75%: .* and Ensembl ids \(25%: "):
        tl.predict(adata, model)


# ---- a corpus


@ONE_MISSING
def test_a_corpus_is_of_the_genes_that_were_named(tmp_path, expected) -> None:
    pytest.importorskip("annbatch")
    adata = data(ITGA4="CD49D")
    raw = AnnData(adata.X, adata.obs, adata.var)
    raw.write_h5ad(tmp_path / "cells.h5ad")
    former = [FORMER if gene == GENE else gene for gene in GENES]
    paths = [tmp_path / "cells.h5ad"]
    pp.build_corpus(paths, tmp_path / "corpus.zarr", vocab=former, val_fraction=0, min_genes=1)
    corpus = sc_cll.model.CorpusData(tmp_path / "corpus.zarr", chunk_size=2)
    assert list(corpus.genes) == former
    tokens = corpus.cells("train", np.arange(144)).layers["binned"].toarray()
    assert (tokens[:, former.index(FORMER)] > 0).any()
    assert (tokens[:, former.index("ITGA4")] > 0).any()
    network = {key: value for key, value in NETWORK.items() if key != "gene_embedding"}
    for name in (FORMER, GENE, ID):
        model = sc_cll.ScBERT.from_corpus(corpus, exclude_genes=[name], **network)
        assert set(former) - set(model.genes) == {FORMER}
    with pytest.raises(KeyError, match=r"'COX2' not in the corpus.*'COX2' \(MT-CO2 or PTGS2\)"):
        sc_cll.ScBERT.from_corpus(corpus, exclude_genes=[SHARED], **network)
    vectors = pd.DataFrame(np.eye(12), index=GENES)
    sc_cll.ScBERT.from_corpus(corpus, gene_vectors=vectors, **network)
    with pytest.raises(ValueError, match=r"gene_vectors must be unique.*keep one row per gene"):
        sc_cll.ScBERT.from_corpus(corpus, gene_vectors=vectors.iloc[[0, *range(12)]], **network)
    with pytest.raises(KeyError, match=r"gene_vectors lacks 1 of 12 .*'PTGS2'"):
        sc_cll.ScBERT.from_corpus(corpus, gene_vectors=vectors.rename({"PTGS2": SHARED}), **network)
    with pytest.raises(ValueError, match=r"not among the model's: 'MARCH1'.*pp\.build_corpus"):
        tl.predict_corpus(corpus, expected[0], tmp_path / "out.zarr")
