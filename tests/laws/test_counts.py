"""The law of counts: whatever reads them, in whatever form they come, gives the result of the plain
form or a sentence whose remedy does.

And nothing that is no gene (an antibody by ``feature_types``) is ever among the genes of a result.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll.vocab import GeneVocab
from tests import _make

mpl.use("agg")
pp, tl = sc_cll.pp, sc_cll.tl
pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")

GENES = ["ITGA4", "CD19", "CD5", *[f"G{i}" for i in range(22)]]
# sixty cells of six donors with counts in X, labels, split and protein
cite = partial(_make.cells, 60, genes=GENES, classes=("neg", "pos"), protein=True)


# -- what reads counts: each call gives plain arrays that can be compared
# ---------------------------------------------------


def _bin(adata: AnnData, layer: str | None = None) -> list[Any]:
    done = pp.bin_expression(adata, layer=layer, copy=True)
    return [done.layers["binned"].toarray()]


def _align(adata: AnnData, layer: str | None = None) -> list[Any]:
    done = pp.align_genes(adata, [*GENES[::-1], "ABSENT"], layer=layer)
    found = done.X if layer is None or layer not in done.layers else done.layers[layer]
    return [found.toarray().astype(float)]


def _human(adata: AnnData, layer: str | None = None) -> list[Any]:
    table = pd.DataFrame({"gene": GENES, "human": GENES})
    done = pp.to_human(adata, table, layer=layer)
    found = done.X if layer is None or layer not in done.layers else done.layers[layer]
    return [found[:, done.var_names.argsort()].toarray().astype(float)]


def _gene2vec(adata: AnnData, layer: str | None = None) -> list[Any]:
    return [tl.gene2vec(adata, n_dims=4, layer=layer, copy=True).varm["gene2vec"]]


def _signature(adata: AnnData, layer: str | None = None) -> list[Any]:
    done = tl.signature(adata, layer=layer, min_cells=3, copy=True)
    return [
        done.uns["signature"]["genes"][["t", "log2_fc"]].to_numpy(),
        done.uns["signature"]["expression"].to_numpy(),
    ]


def _programmes(adata: AnnData, layer: str | None = None) -> list[Any]:
    few = {"ranks": (2, 3), "min_cells": 10, "min_cells_per_class": 3, "n_permutations": 19}
    done = tl.programmes(adata, layer=layer, copy=True, **few)
    table = done.uns["programmes"]["null"]["similarity"].to_numpy()
    return [table, done.obsm["programmes"].to_numpy(), done.varm["programmes"].to_numpy()]


def _cross_validate(adata: AnnData, layer: str | None = None) -> list[Any]:
    common = {
        "models": ["library_size"],
        "scheme": "group_kfold",
        "n_splits": 2,
        "n_repeats": 1,
        "n_bootstrap": 5,
    }
    return [tl.cross_validate(adata, layer=layer, copy=True, **common).obsm["cv_proba"].to_numpy()]


def _score(adata: AnnData, layer: str | None = None) -> list[Any]:
    done = tl.score_signature(
        adata, {"CD19": 1.0, "CD5": -0.5}, method="waggr", layer=layer, copy=True
    )
    return [done.obs["signature_score"].to_numpy()]


def _audit(adata: AnnData, layer: str | None = None) -> list[Any]:
    report = tl.leakage_audit(adata, layer=layer, gap=False)
    return [report.findings[["check", "status", "n"]].iloc[:3].to_numpy(dtype=str)]


def _patients(adata: AnnData, layer: str | None = None) -> list[Any]:
    pp.label_cd49d(adata, donor_key="donor", normalize="clr_protein", method="quantile")
    return [tl.patient_cd49d(adata, layer=layer).X]


def _draw(adata: AnnData, layer: str | None = None) -> list[Any]:
    import matplotlib.pyplot as plt

    axes = sc_cll.pl.cd49d(adata, layer=layer, levels="cell", normalize="clr_protein", show=False)
    axis = np.ravel(axes)[0]
    found = [
        np.sort(np.concatenate([np.ravel(path.vertices) for path in c.get_paths()]))
        for c in axis.collections
    ]
    plt.close("all")
    return found


def _estimator(adata: AnnData) -> list[Any]:
    from sklearn.linear_model import LogisticRegression

    model = sc_cll.estimators.OnMatrix(LogisticRegression(C=0.01, max_iter=1000))
    return [model.fit(adata, adata.obs["cd49d"]).predict_proba(adata)]


VERBS: dict[str, Callable[..., list[Any]]] = {
    "pp.bin_expression": _bin,
    "pp.align_genes": _align,
    "pp.to_human": _human,
    "tl.gene2vec": _gene2vec,
    "tl.signature": _signature,
    "tl.programmes": _programmes,
    "tl.cross_validate": _cross_validate,
    "tl.score_signature": _score,
    "tl.leakage_audit": _audit,
    "tl.patient_cd49d": _patients,
    "pl.cd49d": _draw,
    "estimators.OnMatrix": _estimator,
}
OTHER_LAYERS = {  # of tokens, or of log-expression of bulk samples
    "tl.finetune",
    "tl.pretrain",
    "tl.prognosis",
    "pp.build_corpus",
}


def test_every_public_function_that_reads_a_layer_is_here() -> None:
    rooms = {"pp": pp, "tl": tl, "pl": sc_cll.pl, "datasets": sc_cll.datasets, "get": sc_cll.get}
    found = {
        f"{room}.{name}"
        for room, module in rooms.items()
        for name in module.__all__
        if callable(call := getattr(module, name)) and "layer" in inspect.signature(call).parameters
    }
    assert found <= set(VERBS) | OTHER_LAYERS


# -- forms of counts
# --------------------------------------------------------------------------------------------------


def _dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.X.toarray())


def as_x(make: Callable[[AnnData], Any]) -> Callable[[AnnData], tuple[AnnData, str | None]]:
    def change(adata: AnnData) -> tuple[AnnData, str | None]:
        adata.X = make(adata)
        return adata, None

    return change


def _half(adata: AnnData) -> Any:
    csr = adata.X
    return sparse.csr_matrix(
        (csr.data.astype(np.float16), csr.indices, csr.indptr), shape=csr.shape
    )


def _back_from_log(adata: AnnData) -> Any:
    back = adata.X.copy()
    back.data = np.expm1(np.log1p(back.data))
    assert (back.data != np.rint(back.data)).any()
    return back


def _logged(adata: AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def in_raw(adata: AnnData) -> tuple[AnnData, str | None]:
    adata.raw = adata.copy()
    _logged(adata)
    return adata, "raw"


def in_raw_of_more_genes(adata: AnnData) -> tuple[AnnData, str | None]:
    """Raw holds the genes in another order, and others."""
    more = ad.concat(
        [
            adata[:, ::-1],
            AnnData(adata.X[:, :3], adata.obs[[]], pd.DataFrame(index=["H1", "H2", "H3"])),
        ],
        axis=1,
    )
    more.obs = adata.obs.copy()
    adata.raw = more
    _logged(adata)
    return adata, "raw"


def in_a_layer(adata: AnnData) -> tuple[AnnData, str | None]:
    adata.layers["counts"], adata.X = adata.X.copy(), None
    return adata, "counts"


def in_a_layer_called_raw(adata: AnnData) -> tuple[AnnData, str | None]:
    adata.layers["raw"] = adata.X.copy()
    _logged(adata)
    adata.raw = adata.copy()
    return adata, "raw"


SAME: dict[str, Callable[[AnnData], tuple[AnnData, str | None]]] = {
    "csc": as_x(lambda a: a.X.tocsc()),
    "csr_array": as_x(lambda a: sparse.csr_array(a.X)),
    "dense": as_x(_dense),
    "int64": as_x(lambda a: a.X.astype(np.int64)),
    "float16": as_x(lambda a: _dense(a).astype(np.float16)),
    "objects": as_x(lambda a: _dense(a).astype(object)),
    "masked, nothing masked": as_x(lambda a: np.ma.masked_array(_dense(a))),
    "dask": as_x(lambda a: da.from_array(_dense(a), chunks=(20, 25))),
    "dask of sparse": as_x(
        lambda a: da.from_array(_dense(a), chunks=(20, 25)).map_blocks(sparse.csr_matrix)
    ),
    "from the logarithm": as_x(_back_from_log),
    "raw": in_raw,
    "raw of more genes": in_raw_of_more_genes,
    "a layer, X None": in_a_layer,
    "a layer called raw": in_a_layer_called_raw,
}


def _close(found: list[Any], plain: list[Any]) -> None:
    assert len(found) == len(plain)
    for one, other in zip(found, plain, strict=True):
        if np.asarray(other).dtype.kind in "biuf":
            np.testing.assert_allclose(
                np.asarray(one, float), np.asarray(other, float), rtol=1e-4, atol=1e-5
            )
        else:
            assert np.array_equal(one, other)


@pytest.fixture(scope="module")
def plain() -> dict[str, list[Any]]:
    return {name: call(cite()) for name, call in VERBS.items()}


@pytest.mark.parametrize("form", SAME)
def test_an_odd_form_gives_the_result_of_the_plain_one(
    form: str, plain: dict[str, list[Any]]
) -> None:
    for name, call in VERBS.items():
        adata, layer = SAME[form](cite())
        if name == "estimators.OnMatrix" and layer is not None:
            continue  # takes X
        _close(call(adata, layer) if layer is not None else call(adata), plain[name])


# -- refused, with a remedy that is run
# --------------------------------------------------------------------------------------

_CODE = re.compile(r"(adata\S* = .+?)(?:\.(?= |$)|, then|$)")


def mended(adata: AnnData, sentence: str) -> AnnData:
    """The object after the first remedy of a sentence was run."""
    found = _CODE.search(sentence)
    assert found, sentence
    names: dict[str, Any] = {"adata": adata, "np": np, "pp": pp, "ad": ad}
    exec(found[1], names)  # noqa: S102
    done: AnnData = names["adata"]
    return done


def _nan(adata: AnnData) -> None:
    """A gene that was not measured in some cells."""
    x = adata.X.toarray()
    x[:5, 7] = 0
    adata.uns["plain"] = x.copy()
    x[:5, 7] = np.nan
    adata.X = sparse.csr_matrix(x)


def _nan_dense(adata: AnnData) -> None:
    _nan(adata)
    adata.X = adata.X.toarray()


def _masked(adata: AnnData) -> None:
    x = adata.X.toarray()
    mask = np.zeros(x.shape, dtype=bool)
    mask[:5, 7] = True
    adata.X = np.ma.masked_array(x, mask)


def _soup(adata: AnnData) -> None:
    """As SoupX leaves counts: a share of some taken away."""
    x = adata.X.copy()
    x.data = (x.data - 0.3 * (np.arange(len(x.data)) % 3 == 0) * (x.data > 1)).astype(np.float32)
    adata.X = x


def _soup_dense(adata: AnnData) -> None:
    _soup(adata)
    adata.X = adata.X.toarray()


def _soup_everywhere(adata: AnnData) -> None:
    """As an EM leaves them: hardly one is whole."""
    x = adata.X.copy()
    x.data = x.data + np.random.default_rng(1).uniform(-0.4, 0.4, len(x.data)).astype(np.float32)
    adata.X = x


def _to_raw(adata: AnnData) -> None:
    adata.raw = adata.copy()
    _logged(adata)


def _to_layer(adata: AnnData) -> None:
    adata.layers["umi"] = adata.X.copy()
    _logged(adata)


def _no_x(adata: AnnData) -> None:
    adata.layers["umi"], adata.X = adata.X.copy(), None


def _antibodies(adata: AnnData) -> AnnData:
    """As Cell Ranger writes them: among the genes, with the names of genes made unique."""
    rng = np.random.default_rng(3)
    counts = sparse.csr_matrix(rng.poisson(60.0, (adata.n_obs, 3)).astype(np.float32))
    both = AnnData(sparse.hstack([adata.X, counts], format="csr"), adata.obs.copy())
    both.var_names = [*adata.var_names, "CD19", "CD5", "CD49d"]
    both.var["feature_types"] = pd.Categorical(
        ["Gene Expression"] * adata.n_vars + ["Antibody Capture"] * 3
    )
    both.obsm["protein"] = adata.obsm["protein"].copy()
    both.var_names_make_unique()
    return both


def _half_sparse(adata: AnnData) -> None:
    adata.X = _half(adata)


REFUSED: dict[str, tuple[Callable[[AnnData], AnnData | None], str]] = {
    "fractions": (_soup, "fractions of counts"),
    "fractions, dense": (_soup_dense, "fractions of counts"),
    "fractions everywhere": (_soup_everywhere, "fractions of counts"),
    "NaN": (_nan, "NaN or infinite values, first nan"),
    "NaN, dense": (_nan_dense, "NaN or infinite values, first nan"),
    "masked": (_masked, "5 of its values are masked"),
    "counts in raw": (_to_raw, "adata.raw holds whole numbers"),
    "counts in a layer": (_to_layer, r"adata.layers\['umi'\] holds whole numbers"),
    "sparse float16": (_half_sparse, "sparse matrix of float16"),
    "no X": (_no_x, r"adata.layers\['umi'\] holds whole numbers"),
    "antibodies": (
        _antibodies,
        "3 of 28 rows of var are not genes .*'Antibody Capture'.*'CD19-1', 'CD5-1', 'CD49d'",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_refusal_says_what_to_do_and_that_works(form: str, plain: dict[str, list[Any]]) -> None:
    spoil, sentence = REFUSED[form]
    for name, call in VERBS.items():
        adata = cite()
        adata = spoil(adata) or adata
        if form == "antibodies" and name in ("pp.align_genes", "pp.to_human"):
            continue  # leaves them out
        if form == "sparse float16" and name not in (
            "pp.bin_expression",
            "tl.gene2vec",
            "tl.signature",
        ):
            continue  # SciPy cannot index it, either
        if name == "tl.leakage_audit" and (
            form.startswith("fractions") or form in ("counts in raw", "counts in a layer")
        ):
            continue  # compares any values
        with pytest.raises(ValueError, match=sentence) as error:
            call(adata)
        after = call(mended(adata, str(error.value)))
        if form in (
            "counts in raw",
            "counts in a layer",
            "no X",
            "antibodies",
            "fractions",
            "fractions, dense",
            "sparse float16",
        ):
            _close(after, plain[name])  # what rounding gives are the counts they came from


@pytest.mark.parametrize("verb", ["pp.bin_expression", "pp.align_genes", "tl.signature"])
def test_cells_that_are_on_disk(verb: str, tmp_path: Path, plain: dict[str, list[Any]]) -> None:
    cite().write_h5ad(tmp_path / "a.h5ad")
    on_disk = [ad.read_h5ad(tmp_path / "a.h5ad", backed="r")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_disk.append(ad.experimental.read_lazy(tmp_path / "a.h5ad"))
    for adata in on_disk:
        with pytest.raises(ValueError, match="into memory first") as error:
            VERBS[verb](adata)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _close(VERBS[verb](mended(adata, str(error.value))), plain[verb])


def test_round_off_is_on_record() -> None:
    adata, _ = SAME["from the logarithm"](cite())
    pp.bin_expression(adata)
    assert adata.uns["binned"]["params"]["n_rounded"] > 0
    plain = cite()
    pp.bin_expression(plain)
    assert "n_rounded" not in plain.uns["binned"]["params"]


def test_float16_that_lost_counts_is_told() -> None:
    adata = cite()
    x = adata.X.toarray()
    x[3, 4] = 3001
    adata.X = x.astype(np.float16)
    with pytest.warns(UserWarning, match="float16, which has all whole numbers up to 2,048 only"):
        pp.bin_expression(adata)


def test_logarithms_are_not_called_fractions() -> None:
    adata = cite()
    _logged(adata)
    with pytest.raises(ValueError, match="looks log-transformed") as error:
        pp.bin_expression(adata)
    assert "fractions" not in str(error.value)


# -- antibodies are not genes
# --------------------------------------------------------------------------------------------------

KINDS = [
    ("feature_types", "Gene Expression", "Antibody Capture"),
    ("feature_types", "Gene Expression", "Multiplexing Capture"),
    ("feature_types", "Gene Expression", "CRISPR Guide Capture"),
    ("feature_types", "Gene Expression", "Custom"),
    ("feature_types", "Gene Expression", "Peaks"),
    ("feature_types", "Gene Expression", "something new"),
    ("feature_types", "GEX", "ADT"),
    ("feature_type", "protein_coding", "Antibody Capture"),
    ("modality", "rna", "prot"),
]


@pytest.mark.parametrize(("column", "gene", "other"), KINDS)
@pytest.mark.parametrize("first", [False, True])
def test_antibodies_are_left_out_of_new_objects(
    column: str, gene: str, other: str, first: bool, tmp_path: Path
) -> None:
    """Also where their rows come first, so that the gene is the one that is renamed."""
    pytest.importorskip("annbatch")
    both = _antibodies(cite())
    both.var_names = [*GENES, "CD19", "CD5", "CD49d"]
    both.var = pd.DataFrame({column: [gene] * len(GENES) + [other] * 3}, index=both.var_names)
    if first:
        both = both[:, [25, 26, 27, *range(25)]].copy()
    both.var_names_make_unique()
    aligned = pp.align_genes(both, GENES)
    np.testing.assert_array_equal(aligned.X.toarray(), cite().X.toarray())
    assert len(aligned.uns["align_genes"]["no_genes"]) == 3
    assert len(GeneVocab.of(both)) == len(GENES)
    both.write_h5ad(tmp_path / "a.h5ad")
    assert len(GeneVocab.read(tmp_path / "a.h5ad")) == len(GENES)
    pp.build_corpus(
        [tmp_path / "a.h5ad"], tmp_path / "c.zarr", vocab=GENES, binned=False, val_fraction=0
    )
    record = json.loads((tmp_path / "c.zarr" / "manifest.json").read_text())["sources"][0]
    assert (record["n_genes"], record["n_matched"], len(record["no_genes"])) == (
        len(GENES),
        len(GENES),
        3,
    )
    assert set(record["renamed"]) == ({"CD19-1", "CD5-1"} if first else set())
    assert record["n_tokens"] == cite().X.nnz


@pytest.mark.parametrize("words", [["protein_coding", "lncRNA"], ["a", "b"], [None, None]])
def test_a_column_of_other_words_hides_no_gene(words: list[str | None]) -> None:
    adata = cite()
    adata.var["feature_types"] = [words[i % 2] for i in range(adata.n_vars)]
    np.testing.assert_array_equal(_bin(adata)[0], _bin(cite())[0])


def test_a_row_of_which_nothing_is_said_is_a_question() -> None:
    both = _antibodies(cite())
    both.var["feature_types"] = ["Gene Expression"] * len(GENES) + [None] * 3
    with pytest.raises(ValueError, match=r"says nothing of 3 rows .'CD19-1'.*are they genes"):
        pp.bin_expression(both)


def test_a_vendors_mark_is_enough() -> None:
    both = _antibodies(cite())
    del both.var["feature_types"]
    both.var_names = [*GENES, "CD19_TotalSeqB", "CD5_TotalSeqB", "CD49d|ITGA4|AHS0063|pAbO"]
    with pytest.raises(ValueError, match="their names say so") as error:
        pp.bin_expression(both)
    np.testing.assert_array_equal(_bin(mended(both, str(error.value)))[0], _bin(cite())[0])


def test_an_object_without_a_gene_is_refused() -> None:
    both = _antibodies(cite())
    for call in (pp.bin_expression, lambda a: pp.align_genes(a, GENES), lambda a: GeneVocab.of(a)):
        with pytest.raises(
            ValueError,
            match=r"3 of 3 rows of var are not genes.*Take the object that holds the RNA",
        ):
            call(both[:, 25:].copy())


def test_tokens_of_antibodies_reach_no_model() -> None:
    both = _antibodies(cite())
    column = both.var.pop("feature_types")
    pp.bin_expression(both)  # nobody could know
    both.var["feature_types"] = column
    with pytest.raises(ValueError, match=r"not genes.*and bin again: pp.bin_expression\(adata\)"):
        sc_cll.ScBERT.setup_anndata(both)


def test_antibodies_of_raw_are_no_genes() -> None:
    adata = cite()
    both = _antibodies(cite())
    adata.raw = both
    _logged(adata)
    np.testing.assert_array_equal(_bin(adata, "raw")[0], _bin(cite())[0])
    aligned = pp.align_genes(adata, GENES, layer="raw")
    np.testing.assert_array_equal(aligned.X.toarray(), cite().X.toarray())


# -- the corpus
# --------------------------------------------------------------------------------------------------


def _corpus(
    adata: AnnData, folder: Path, layer: str | None = None, ending: str = "h5ad"
) -> pd.DataFrame:
    path = folder / f"a.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path) if ending == "zarr" else adata.write_h5ad(path)
    pp.build_corpus(
        [path], folder / "c.zarr", vocab=GENES, layer=layer, binned=False, val_fraction=0
    )
    found = ad.read_zarr(folder / "c.zarr" / "train" / "dataset_0")
    found.obs_names = [name.split(":")[1] for name in found.obs_names]
    return found[cite().obs_names].to_df()


CORPUS = [
    "csc",
    "dense",
    "int64",
    "float16",
    "from the logarithm",
    "raw",
    "raw of more genes",
    "a layer, X None",
    "a layer called raw",
]


@pytest.mark.parametrize("form", CORPUS)
@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_a_corpus_reads_the_same_forms(form: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("annbatch")
    adata, layer = SAME[form](cite())
    np.testing.assert_array_equal(
        _corpus(adata, tmp_path, layer, ending).to_numpy(), cite().X.toarray()
    )


@pytest.mark.parametrize(
    "form", ["fractions", "NaN", "NaN, dense", "counts in raw", "counts in a layer"]
)
def test_a_corpus_says_the_same(form: str, tmp_path: Path) -> None:
    pytest.importorskip("annbatch")
    spoil, sentence = REFUSED[form]
    adata = cite()
    spoil(adata)
    with pytest.raises(ValueError, match=sentence) as error:
        _corpus(adata, tmp_path)
    done = mended(adata, str(error.value).split("Mend them")[0].strip())
    _corpus(done, tmp_path)
    if named := re.search(r"pass layer='(\w+)'", str(error.value)):
        (tmp_path / "second").mkdir()
        found = _corpus(adata, tmp_path / "second", named[1])
        np.testing.assert_array_equal(found.to_numpy(), cite().X.toarray())


# -- names with a genome before them
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["GRCh38_", "GRCh38______", "GRCh38-", "hg38_", "hg19_", "GRCh38-2020-A_", "grch38_"]
)
def test_a_genome_before_a_name_is_not_part_of_it(prefix: str) -> None:
    adata = cite()
    adata.var_names = [prefix + gene for gene in GENES]
    aligned = pp.align_genes(adata, GENES)
    np.testing.assert_array_equal(aligned.X.toarray(), cite().X.toarray())
    assert set(aligned.uns["align_genes"]["renamed"]["how"]) == {"genome"}


@pytest.mark.parametrize("upper", [False, True])
def test_mouse_genes_are_no_human_genes(upper: bool) -> None:
    names = [f"GRCh38_{gene}" for gene in GENES] + [
        f"mm10___{gene if upper else gene.capitalize()}" for gene in GENES
    ]
    found = GeneVocab(GENES).resolve(names)
    assert (found["how"] == ["genome"] * len(GENES) + ["unmatched"] * len(GENES)).all()
    alone = GeneVocab(GENES).resolve(names[len(GENES) :])
    assert (alone["index"] < 0).all()


def test_mouse_genes_of_a_mouse_vocabulary() -> None:
    vocab = GeneVocab(["Itga4", "Cd19"])
    assert vocab.resolve(["mm10_Itga4", "mm10_Cd19", "GRCh38_CD19"])["index"].tolist() == [0, 1, -1]
