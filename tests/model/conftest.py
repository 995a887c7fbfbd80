"""Small simulated cells with a signal, and trained models of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scbert_cll import pp
from scbert_cll.model import ScBERT, ScBERTClassifier

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
TINY = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned"}
PUBLISHED = TINY | {
    "tokens": "all",
    "end_token": True,
    "head": "scbert",
    "n_layers": 2,
}  # the same choices, made small


def _simulate(n_cells: int = 120, n_genes: int = 60, seed: int = 0) -> AnnData:
    """Raw counts of six donors; the first ten genes are high in class "b" and the next ten in class
    "a".
    """
    rng = np.random.default_rng(seed)
    is_b = rng.random(n_cells) < 0.5
    mean = np.random.default_rng(0).gamma(0.6, 4, n_genes) * np.ones((n_cells, 1))
    mean[:, :10] = np.where(is_b, 4, 0.3)[:, None]
    mean[:, 10:20] = np.where(is_b, 0.3, 4)[:, None]
    counts = rng.poisson(mean * rng.lognormal(0, 0.3, (n_cells, 1))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "donor": [f"donor{i % 6}" for i in range(n_cells)],
            "label": pd.Categorical(np.where(is_b, "b", "a")),
            "split": [
                ("train", "train", "train", "train", "val", "test")[i % 6] for i in range(n_cells)
            ],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = AnnData(
        sparse.csr_matrix(counts),
        obs=obs,
        var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]),
    )
    pp.bin_expression(adata, target_sum=300)
    return adata


def _pretrain(
    adata: AnnData, max_epochs: int = 2, *, setup: Any = None, network: Any = None, **train: Any
) -> ScBERT:
    ScBERT.setup_anndata(adata, **(setup or {}))
    model = ScBERT(adata, **TINY | (network or {}))
    model.train(max_epochs, **{"split_key": "split", "batch_size": 32} | QUIET | train)
    return model


def _classify(
    adata: AnnData, max_epochs: int = 2, *, setup: Any = None, network: Any = None, **train: Any
) -> ScBERTClassifier:
    ScBERTClassifier.setup_anndata(adata, **{"labels_key": "label"} | (setup or {}))
    model = ScBERTClassifier(adata, **TINY | (network or {}))
    model.train(max_epochs, **{"split_key": "split", "batch_size": 32} | QUIET | train)
    return model


@pytest.fixture(scope="session")
def simulate() -> Callable[..., AnnData]:
    """Make binned cells: `simulate(n_cells, n_genes, seed)`."""
    return _simulate


@pytest.fixture(scope="session")
def pretrain() -> Callable[..., ScBERT]:
    """Set up and train a ScBERT: `pretrain(adata, max_epochs, setup=, network=, **train)`."""
    return _pretrain


@pytest.fixture(scope="session")
def classify() -> Callable[..., ScBERTClassifier]:
    """Set up and train a ScBERTClassifier, as `pretrain` does."""
    return _classify


@pytest.fixture(scope="session")
def published_network() -> dict[str, Any]:
    """The choices of the published network, in small."""
    return PUBLISHED


@pytest.fixture(scope="session")
def _cells() -> AnnData:
    return _simulate()


@pytest.fixture
def adata(_cells: AnnData) -> AnnData:
    """Binned cells of one's own."""
    return _cells.copy()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three files of six donors each, two of which have no label; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = []
    for number in range(3):
        adata = _simulate(100 + number, seed=number)
        adata.obs["donor"] = [f"{donor} of {number}" for donor in adata.obs["donor"]]
        adata.obs.loc[adata.obs.index[:2], "label"] = None
        paths.append(folder / f"{number}.h5ad")
        adata.write_h5ad(paths[-1])
    out = folder / "corpus.zarr"
    how = {"obs_columns": ["label"], "target_sum": 300, "val_fraction": 0.2, "memory": "200KB"}
    pp.build_corpus(paths, out, vocab=list(adata.var_names), **how)
    return out


@pytest.fixture(scope="session")
def _new_cells() -> AnnData:
    adata = _simulate(40, seed=1)
    adata.obs = adata.obs[[]]
    return adata


@pytest.fixture
def new_cells(_new_cells: AnnData) -> AnnData:
    """Cells no model has seen, without labels."""
    return _new_cells.copy()


@pytest.fixture(scope="session")
def scbert(_cells: AnnData) -> ScBERT:
    """A pretrained model; not to be changed."""
    return _pretrain(_cells.copy())


@pytest.fixture(scope="session")
def classifier(_cells: AnnData) -> ScBERTClassifier:
    """A trained classifier; not to be changed."""
    return _classify(_cells.copy(), 8, early_stopping=False)


@pytest.fixture(scope="session")
def published(_cells: AnnData) -> ScBERTClassifier:
    """A trained classifier in which all genes attend, as in the published network; not to be
    changed.
    """
    return _classify(_cells.copy(), network=PUBLISHED)


@pytest.fixture(params=["scbert", "classifier", "published"])
def model(request: pytest.FixtureRequest) -> ScBERT | ScBERTClassifier:
    """Each trained model in turn; not to be changed."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def answers() -> Callable[..., dict[str, np.ndarray]]:
    """All a model says about cells: `answers(model, adata, batch_size)`."""

    def ask(
        model: Any, adata: AnnData | None = None, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        found = {
            "latent": model.get_latent_representation(adata, batch_size=batch_size),
            "attention": model.get_cell_attention(adata, batch_size=batch_size).toarray(),
        }
        if isinstance(model, ScBERTClassifier):
            found["probabilities"] = model.predict(
                adata, soft=True, batch_size=batch_size
            ).to_numpy()
        return found

    return ask


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    """Answers agree: `same(found, expected, rows, atol=1e-6)`, where row i of `found` is row
    rows[i] of `expected`.
    """

    def check(found: Any, expected: Any, rows: Any = slice(None), *, atol: float = 1e-6) -> None:
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_allclose(
                values, expected[name][rows], rtol=0, atol=atol, err_msg=name
            )

    return check
