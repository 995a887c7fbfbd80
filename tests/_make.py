"""What the tests make: cells, a cohort, and a look at what a call left unchanged.

Small and quick. A test that needs other data says so where it makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, Raw
from mudata import MuData
from scipy import sparse

from scbert_cll import datasets, pp

# one epoch of a small network on the CPU, without a bar
FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
PARTS = ("train", "train", "train", "train", "val", "test")  # of the donors, in turn


def cells(
    n: int = 72,
    n_genes: int = 30,
    *,
    n_donors: int = 6,
    genes: Sequence[str] | None = None,
    key: str = "cd49d",
    classes: Sequence[Any] = ("CD49d-", "CD49d+"),
    planted: int = 6,
    fold: float = 4.0,
    protein: bool = False,
    binned: bool = False,
    rng: int = 0,
) -> AnnData:
    """Raw counts of cells, float32 CSR, with `obs` donor, class and split.

    Donors P0, P1, … have as many cells each, one after the other, and all classes in turn. Genes 1
    to `planted` are `fold` times as high in the last class. `genes` names as many as there are to
    be. With `protein` there is ``obsm["protein"]``, whose CD49d goes with the class; with `binned`
    the tokens.
    """
    names = list(genes or (f"G{i}" for i in range(n_genes)))
    random = np.random.default_rng(rng)
    code = np.arange(n) % len(classes)
    mean = np.tile(random.gamma(1.0, 2.0, len(names)) + 0.5, (n, 1))
    mean[np.ix_(code == len(classes) - 1, np.arange(1, planted + 1))] *= fold
    donor = np.arange(n) * n_donors // n
    obs = pd.DataFrame({"donor": [f"P{i}" for i in donor]}, index=[f"cell{i}" for i in range(n)])
    obs[key] = pd.Categorical.from_codes(code, list(classes))
    obs["split"] = [PARTS[i % len(PARTS)] for i in donor]
    counts = sparse.csr_matrix(random.poisson(mean).astype(np.float32))
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    if protein:
        level = random.poisson(np.where(code == len(classes) - 1, 80, 5))
        others = {name: random.poisson(50, n) for name in ("CD19", "CD5")}
        adata.obsm["protein"] = pd.DataFrame(
            {"CD49d": level, **others}, index=obs.index, dtype=float
        )
    if binned:
        pp.bin_expression(adata)
    return adata


# a class of one letter each, tokens, few genes: for what is asked of a model, not how good it is
few_cells = partial(cells, 24, 10, classes=("-", "+"), binned=True)


def graded_cells(rng: int = 0, n: int = 40, donors: str = "ABC") -> AnnData:
    """Cells × 30 genes whose counts tell where a gene stands, of donors and kinds at random."""
    random = np.random.default_rng(rng)
    counts = random.poisson(0.3 + np.arange(30) / 12, (n, 30)).astype(np.float32)
    obs = pd.DataFrame({"donor": random.choice(list(donors), n)}, index=[f"c{i}" for i in range(n)])
    obs["kind"] = pd.Categorical(random.choice(["a", "b"], n))
    var = pd.DataFrame(index=[f"G{i}" for i in range(30)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def cells_of_donors(donors: Any, rng: int = 0, dtype: Any = None) -> AnnData:
    """One cell × 12 genes for each of `donors`, which are in `obs` as they are."""
    random = np.random.default_rng(rng)
    adata = AnnData(sparse.csr_matrix(random.poisson(2.0, (len(donors), 12)).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.obs["donor"] = pd.Series(donors, adata.obs_names, dtype=dtype)
    return adata


def cohort(n_patients: int = 120, n_genes: int = 200, *, rng: int = 0) -> AnnData:
    """Bulk samples with an outcome."""
    return datasets.cll_cohort(n_patients=n_patients, n_genes=n_genes, rng=rng)


def counted(n_cells: int = 4, n_genes: int = 3) -> AnnData:
    """Cells c0, c1 … × genes g0, g1 … with the counts 0, 1, 2 …, by cells."""
    counts = np.arange(n_cells * n_genes, dtype=np.float32).reshape(n_cells, n_genes)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


SLOTS = ("X", "layers", "obs", "var", "obsm", "varm", "obsp", "varp", "uns", "raw", "mod")


def _parts(value: object, place: str = "data") -> Iterator[tuple[str, Any]]:
    """A copy of everything that lies in an AnnData or MuData, by its place."""
    if isinstance(value, AnnData | MuData | Raw):
        value = {slot: getattr(value, slot, None) for slot in SLOTS}
    if isinstance(value, Mapping):
        keys = [key for key in value if key is not None]
        yield f"names of {place}", sorted(map(str, keys))
        for key in keys:
            yield from _parts(value[key], f"{place}[{key!r}]")
    else:
        yield place, value.toarray() if sparse.issparse(value) else deepcopy(value)


@contextmanager
def unchanged(data: AnnData | MuData) -> Iterator[None]:
    """What happens inside leaves values, dtypes and names of all slots as they were."""
    before = dict(_parts(data))
    yield
    after = dict(_parts(data))
    assert before.keys() == after.keys()
    for place, value in before.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(after[place], value, obj=place)
        else:
            assert getattr(after[place], "dtype", None) == getattr(value, "dtype", None), place
            np.testing.assert_array_equal(after[place], value, err_msg=place)
