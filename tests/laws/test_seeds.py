"""A seed that is passed on has an effect: it changes what it should, the same one gives the same,
and nothing else is touched.

Whatever takes `rng`, `seed` or `n_repeats` must be in `CASES`, with what it is to change.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll.estimators import OnMatrix, Resampled, ScBERTEstimator, Tuned, as_estimator, seeded
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier

ROOMS = ("pp", "tl", "pl", "get", "io", "datasets", "estimators", "model")
SEEDS = {"rng", "seed", "random_state", "n_repeats", "repeat", "repeats"}
TINY = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def prepared() -> AnnData:
    """Labels, protein, a split, tokens, of ten donors."""
    mdata = sc_cll.datasets.cll_toy(n_cells=300, n_genes=200, rng=1)
    sc_cll.pp.label_cd49d(mdata)
    adata = mdata["rna"].copy()
    adata.obsm["protein"] = pd.DataFrame(
        np.asarray(mdata["prot"].to_df()), adata.obs_names, mdata["prot"].var_names.astype(object)
    )
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d")
    sc_cll.pp.bin_expression(adata)
    return adata


@pytest.fixture(scope="module")
def corpus(prepared: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("seeds") / "corpus.zarr"
    _corpus(prepared, out, 0)
    return out


@pytest.fixture(scope="module")
def classifier(prepared: AnnData) -> ScBERTClassifier:
    return _classify(prepared, 0)


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, prepared: AnnData, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What cases are made of; models and the corpus only when a case asks for them."""
    folder = tmp_path_factory.mktemp("world")
    return {"cells": prepared, "ask": request.getfixturevalue, "folder": folder}


# -- what is called, and what a seed is to change of it
# ---------------------------------------------------------------


def _corpus(adata: AnnData, out: Path, seed: int) -> None:
    path = out.parent / f"{out.stem}.h5ad"
    given = adata.copy()
    del given.layers["binned"]
    given.write_h5ad(path)
    sc_cll.pp.build_corpus(
        [path], out, vocab=list(adata.var_names), obs_columns=["cd49d"], val_fraction=0.3, rng=seed
    )


def _classify(adata: AnnData, seed: int, **train: Any) -> ScBERTClassifier:
    adata = adata.copy()
    ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    model = ScBERTClassifier(adata, rng=0, **TINY)
    model.train(1, split_key="split", rng=seed, **QUIET, **train)
    return model


def _weights(model: Any) -> np.ndarray:
    """All of a network that is drawn or learned."""
    return np.concatenate(
        [tensor.detach().double().ravel().numpy() for tensor in model.module.state_dict().values()]
    )


def _scbert(adata: AnnData, seed: int) -> ScBERT:
    adata = adata.copy()
    ScBERT.setup_anndata(adata)
    return ScBERT(adata, rng=seed, **TINY)


def _pretrained(adata: AnnData, seed: int) -> ScBERT:
    model = _scbert(adata, 0)
    model.train(1, split_key="split", rng=seed, **QUIET)
    return model


def _untrained(adata: AnnData, seed: int) -> ScBERTClassifier:
    adata = adata.copy()
    ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    return ScBERTClassifier(adata, rng=seed, **TINY)


def _head(adata: AnnData, seed: int) -> ScBERTClassifier:
    adata = adata.copy()
    pretrained = _scbert(adata, 0)
    ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    return ScBERTClassifier.from_pretrained(pretrained, adata, labels_key="cd49d", rng=seed)


def _of_corpus(kind: type, w: dict[str, Any], seed: int) -> Any:
    labels = {"labels_key": "cd49d"} if kind is ScBERTClassifier else {}
    return kind.from_corpus(_data(w), rng=seed, **TINY, **labels)


def _data(w: dict[str, Any]) -> CorpusData:
    return CorpusData(w["ask"]("corpus"), chunk_size=32, preload_nchunks=2)


def _order(w: dict[str, Any], seed: int) -> np.ndarray:
    """Cells of an epoch in the order in which they come."""
    data, model = _data(w), _of_corpus(ScBERT, w, 0)
    data.attach(model.genes, model.config, seed=seed)
    data.batch_size = 16
    return np.concatenate([batch["rows"].numpy() for batch in data.train_dataloader()])


def _written(call: Callable[..., Any], adata: AnnData, **how: Any) -> AnnData:
    """The object after a verb, the input left as it is."""
    adata = adata.copy()
    call(adata, **how)
    return adata


def _cv(adata: AnnData, **how: Any) -> pd.DataFrame:
    call = {
        "models": ["majority"],
        "metrics": ["macro_f1"],
        "scheme": "group_kfold",
        "n_splits": 3,
        "n_bootstrap": 20,
    }
    done = _written(sc_cll.tl.cross_validate, adata, **call | {"n_repeats": 1} | how)
    return done.uns["cv"]["folds"]


def _one_repeat(adata: AnnData, repeat: int) -> np.ndarray:
    """What a model says of the cells in one of two repeats."""
    call = {
        "models": ["library_size"],
        "metrics": ["macro_f1"],
        "scheme": "group_kfold",
        "n_splits": 3,
    }
    done = _written(sc_cll.tl.cross_validate, adata, **call, n_repeats=2, n_bootstrap=20)
    return sc_cll.get.out_of_fold(done, model="library_size", repeat=repeat)[
        "proba_CD49d+"
    ].to_numpy()


def _partitions(folds: pd.DataFrame) -> list[frozenset[str]]:
    return [frozenset(part["test_donors"]) for _, part in folds.groupby("repeat")]


def _held_out(adata: AnnData, seed: int) -> list[frozenset[str]]:
    return _partitions(_cv(adata, rng=seed))


def _repeats(adata: AnnData, n: int) -> int:
    """How many repeats hold out other donors: as many as there are."""
    return len(set(_partitions(_cv(adata, n_repeats=n))))


def _audit(adata: AnnData, **how: Any) -> np.ndarray:
    given = adata.copy()
    return (
        sc_cll.tl.leakage_audit(given, **{"n_repeats": 2} | how)
        .gap[["macro_f1", "low", "high"]]
        .to_numpy(float)
    )


def _repeats_of_the_audit(adata: AnnData, n: int) -> np.ndarray:
    """Range of the scores by donors: one repeat has none."""
    gap = sc_cll.tl.leakage_audit(adata.copy(), n_repeats=n).gap.set_index("scheme")
    return gap.loc["C", ["low", "high", "n_repeats"]].to_numpy(float)


def _interactions(w: dict[str, Any], seed: int) -> np.ndarray:
    call = {"groupby": "cd49d", "n_cells": 20, "rng": seed}
    done = _written(
        sc_cll.tl.gene_interactions,
        w["cells"],
        model=w["ask"]("classifier"),
        genes=["CD74", "B2M"],
        **call,
    )
    return done.uns["gene_interactions"]["pairs"]["effect"].to_numpy(float)


def _prognosis(seed: int) -> np.ndarray:
    adata = sc_cll.datasets.cll_cohort(n_patients=120, n_genes=150)
    call = {
        "time_key": "TTT",
        "event_key": "treated",
        "covariates": ["TP53"],
        "n_bootstrap": 2,
        "n_random": 30,
    }
    sc_cll.tl.prognosis(adata, list(adata.var_names[:10]), **call, rng=seed)
    return adata.uns["prognosis"]["null"].select_dtypes("number").to_numpy()


def _report(adata: AnnData, seed: int) -> np.ndarray:
    adata = adata.copy()
    sc_cll.tl.signature(adata, min_cells=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc_cll.tl.signature_report(adata, n_random=20, n_permutations=20, rng=seed)
    return adata.uns["signature_report"]["gates"][["null", "null_high", "p"]].to_numpy(float)


def _programmes(seed: int) -> np.ndarray:
    """What is as alike where genes are permuted."""
    adata = sc_cll.datasets.planted_donors(n_donors=4, n_genes=60, n_cells=60)
    sc_cll.tl.programmes(adata, groupby="label", ranks=(2, 3), n_permutations=19, rng=seed)
    return adata.uns["programmes"]["null"]["similarity"].to_numpy()


def _proba(estimator: Any, adata: AnnData, seed: int) -> np.ndarray:
    adata = adata[adata.obs["cd49d"].notna()].copy()
    estimator = estimator.set_params(rng=seed) if "rng" in estimator.get_params() else estimator
    plain = AnnData(
        adata.X, pd.DataFrame(index=adata.obs_names), pd.DataFrame(index=adata.var_names)
    )
    fitted = estimator.fit(plain, adata.obs["cd49d"], adata.obs["donor"].astype(str))
    return np.asarray(fitted.predict_proba(plain))


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(5)


def _counts(adata: AnnData) -> np.ndarray:
    return np.asarray(sparse.csr_matrix(adata.X).sum(axis=1)).ravel()


# what is called with a seed, out of the cells or of all there is
CASES: dict[str, Callable[[dict[str, Any], int], Any]] = {
    "pp.balance(rng)": lambda w, s: _written(
        sc_cll.pp.balance, w["cells"], groupby="cd49d", method="undersample", rng=s
    ).obs_names.tolist(),
    "pp.build_corpus(rng)": lambda w, s: _built(w, s),
    "pp.label_cd49d(rng)": lambda w, s: _written(
        sc_cll.pp.label_cd49d, _measured(w["cells"]), protein_key="protein", rng=s
    ).obs["cd49d_score"],
    "pp.split_donors(rng)": lambda w, s: (
        _written(sc_cll.pp.split_donors, w["cells"], donor_key="donor", labels_key="cd49d", rng=s)
        .obs["split"]
        .tolist()
    ),
    "tl.cross_validate(rng)": lambda w, s: _held_out(w["cells"], s),
    "tl.cross_validate(n_repeats)": lambda w, s: _repeats(w["cells"], 2 + 3 * s),
    "tl.finetune(rng)": lambda w, s: _weights(_tuned(w["cells"], s)),
    "tl.gene2vec(rng)": lambda w, s: _written(
        sc_cll.tl.gene2vec, w["cells"], method="skip_gram", n_dims=4, epochs=1, rng=s
    ).varm["gene2vec"],
    "tl.gene_interactions(rng)": _interactions,
    "tl.leakage_audit(rng)": lambda w, s: _audit(w["cells"], rng=s),
    "tl.leakage_audit(n_repeats)": lambda w, s: _repeats_of_the_audit(w["cells"], 1 + 3 * s),
    "tl.pretrain(rng)": lambda w, s: _weights(
        sc_cll.tl.pretrain(w["cells"].copy(), max_epochs=1, rng=s, network=TINY, **QUIET)
    ),
    "tl.prognosis(rng)": lambda w, s: _prognosis(s),
    "tl.programmes(rng)": lambda w, s: _programmes(s),
    "tl.signature_report(rng)": lambda w, s: _report(w["cells"], s),
    "get.out_of_fold(repeat)": lambda w, s: _one_repeat(w["cells"], s),
    "datasets.cll_cohort(rng)": lambda w, s: (
        sc_cll.datasets.cll_cohort(n_patients=40, n_genes=150, rng=s).X
    ),
    "datasets.cll_toy(rng)": lambda w, s: _counts(
        sc_cll.datasets.cll_toy(n_cells=200, n_genes=200, rng=s)["rna"]
    ),
    "datasets.planted_donors(rng)": lambda w, s: _counts(
        sc_cll.datasets.planted_donors(n_genes=60, rng=s)
    ),
    "estimators.OnMatrix(rng)": lambda w, s: _proba(OnMatrix(_forest()), w["cells"], s),
    "estimators.Resampled(rng)": lambda w, s: _proba(
        Resampled(_forest(), method="undersample"), w["cells"], s
    ),
    "estimators.ScBERTEstimator(rng)": lambda w, s: _proba(
        ScBERTEstimator(max_epochs=1, gene_embedding="learned", accelerator="cpu"), w["cells"], s
    ),
    "estimators.Tuned(rng)": lambda w, s: _proba(
        Tuned(OnMatrix(_forest()), {"estimator__max_depth": ("int", 2, 9)}, n_trials=2),
        w["cells"],
        s,
    ),
    "estimators.seeded(seed)": lambda w, s: _proba(
        seeded(as_estimator(_forest()), s), w["cells"], s
    ),
    "model.CorpusData.attach(seed)": _order,
    "model.CorpusData.sample(rng)": lambda w, s: _data(w).sample(20, rng=s).obs_names.tolist(),
    "model.ScBERT(rng)": lambda w, s: _weights(_scbert(w["cells"], s)),
    "model.ScBERT.from_corpus(rng)": lambda w, s: _weights(_of_corpus(ScBERT, w, s)),
    "model.ScBERT.train(rng)": lambda w, s: _weights(_pretrained(w["cells"], s)),
    "model.ScBERTClassifier(rng)": lambda w, s: _weights(_untrained(w["cells"], s)),
    "model.ScBERTClassifier.from_corpus(rng)": lambda w, s: _weights(
        _of_corpus(ScBERTClassifier, w, s)
    ),
    "model.ScBERTClassifier.from_pretrained(rng)": lambda w, s: _weights(_head(w["cells"], s)),
    "model.ScBERTClassifier.randomized(rng)": lambda w, s: _weights(
        w["ask"]("classifier").randomized("all", rng=s)
    ),
    "model.ScBERTClassifier.train(rng)": lambda w, s: _weights(_classify(w["cells"], s)),
}
SLOW = {"tl.signature_report(rng)", "tl.leakage_audit(rng)", "tl.leakage_audit(n_repeats)"}


def _measured(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.obs = adata.obs[["donor"]]
    return adata


def _built(w: dict[str, Any], seed: int) -> list[str]:
    """Cells of the training part in their order."""
    number = len(list(w["folder"].iterdir()))
    out = w["folder"] / f"corpus{number}.zarr"
    _corpus(w["cells"], out, seed)
    return CorpusData(out, chunk_size=32, preload_nchunks=2).names("train").tolist()


def _tuned(adata: AnnData, seed: int) -> ScBERTClassifier:
    return sc_cll.tl.finetune(
        adata.copy(), labels_key="cd49d", max_epochs=1, rng=seed, network=TINY, **QUIET
    )


def walked() -> set[str]:
    """Every public function, class and method that takes a seed."""
    found = set()
    for room in ROOMS:
        module = importlib.import_module(f"scbert_cll.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            named = {f"{room}.{name}": thing}
            if inspect.isclass(thing):
                members = inspect.getmembers(thing, callable)
                named |= {f"{room}.{name}.{k}": v for k, v in members if not k.startswith("_")}
            for path, one in named.items():
                if callable(one) and (getattr(one, "__module__", "") or "").startswith(
                    "scbert_cll"
                ):
                    found |= {
                        f"{path}({p})" for p in inspect.signature(one).parameters if p in SEEDS
                    }
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | pd.Series):
        return bool(
            np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
        )
    return bool(a == b)


def streams() -> tuple[Any, ...]:
    """State of NumPy's and PyTorch's own random numbers, which a user may have seeded."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (name, keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes())


def test_whatever_takes_a_seed_is_on_the_list() -> None:
    assert walked() == set(CASES)


def _case(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name  # twice a report


@pytest.mark.parametrize("name", [_case(name) for name in CASES])
def test_a_seed_changes_what_it_should(name: str, world: dict[str, Any]) -> None:
    call = CASES[name]
    if "corpus" in name or "Corpus" in name:
        pytest.importorskip("annbatch", reason="needs the extra corpus")
    call(world, 0)  # what is only made once is made
    before, obs = streams(), world["cells"].obs.copy()
    first, again = call(world, 0), call(world, 0)
    assert streams() == before, "the user's own random numbers were drawn from, or seeded"
    assert same(first, again), "the same seed, another result"
    assert not same(first, call(world, 1)), "another seed, the same result"
    pd.testing.assert_frame_equal(world["cells"].obs, obs)


def test_many_repeats_hold_out_many_partitions(prepared: AnnData) -> None:
    assert _repeats(prepared, 10) >= 5
    assert len({tuple(sorted(_held_out(prepared, seed)[0])) for seed in range(10)}) >= 5
