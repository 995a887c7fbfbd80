"""What both models share: registry, genes by name, inference cell by cell, training, folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, Final, Self

import lightning.pytorch as L
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from tqdm.auto import tqdm

import scbert_cll
from scbert_cll import _checks, _keys
from scbert_cll.model import _io, _scvi
from scbert_cll.model._data import Batch, TokenRows, TokenSplits, in_order_of_length, random_split
from scbert_cll.model._plans import KeepBest
from scbert_cll.nn import Config, Performer
from scbert_cll.nn.performer import mean_tokens

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # trains on a laptop: only expressed genes attend, their mean is classified
    "small": {},
    # the published network: every gene attends, gene2vec stays as it is
    "scbert": {
        "n_hidden": 200,
        "n_layers": 6,
        "n_heads": 10,
        "dim_head": 64,
        "dropout": 0.0,
        "train_gene_embedding": False,
        "tokens": "all",
        "end_token": True,
        "head": "scbert",
    },
}
_DERIVED: Final = {"n_genes", "n_bins", "n_classes"}
_NETWORK: Final = [f.name for f in fields(Config) if f.name not in _DERIVED]

# Features of one inference batch (cells x heads x features x tokens) stay under this: about 0.5 GB a tensor in float32.
_FEATURES_PER_BATCH: Final = 2**27


def as_seed(rng: int | np.random.Generator | None) -> int:
    """Draw an integer seed from what users pass as `rng`."""
    return int(rng) if isinstance(rng, (int, np.integer)) else int(np.random.default_rng(rng).integers(2**31))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from `seed`, and the user's own stream untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


class TokenModel(_scvi.BaseModelClass):  # type: ignore[misc]
    """A Performer over binned genes, with the verbs of scvi-tools."""

    module: Performer

    def __init__(
        self,
        adata: AnnData | None,
        registry: dict[str, Any] | None,
        network: Mapping[str, Any],
        *,
        preset: str,
        binning: Mapping[str, Any] | None,
        classes: Sequence[str],
        rng: int | np.random.Generator | None,
    ) -> None:
        super().__init__(adata, registry)
        setup = self.registry["setup_args"]
        self.layer: str = setup["layer"]
        names = pd.Index([str(g) for g in self.registry["field_registries"]["X"]["state_registry"]["column_names"]])
        self.genes: pd.Index = names[~names.isin(setup["exclude_genes"])]
        if binning is None:
            if adata is None:
                raise ValueError("A model without adata needs binning=, the uns record that pp.bin_expression wrote.")
            _, binning = _checks.tokens(adata, self.layer)
        self.binning: dict[str, Any] = {"params": dict(binning["params"]), "edges": binning["edges"]}
        config = self._config(preset, network, len(classes))
        vectors = _gene_vectors(adata, self.genes) if adata is not None and config.gene_embedding == "gene2vec" else None
        with seeded(as_seed(rng)):
            self.module = Performer(config, vectors)
        self.module.eval()
        self._model_summary_string = f"{type(self).__name__}: {config}"
        self.init_params_ = self._get_init_params(locals())

    def _config(self, preset: str, network: Mapping[str, Any], n_classes: int) -> Config:
        _checks.choice(preset, list(PRESETS), "preset")
        unknown = [name for name in network if name not in _NETWORK]
        if unknown:
            raise TypeError(f"Unknown network parameters {_checks.listed(unknown)}; there are {_checks.listed(_NETWORK, 20)}.")
        derived = {"n_genes": len(self.genes), "n_bins": int(self.binning["params"]["n_bins"]), "n_classes": n_classes}
        return Config(**(PRESETS[preset] | dict(network) | derived))

    @property
    def config(self) -> Config:
        """Dimensions and choices of the network."""
        return self.module.config

    # ---- cells in

    def _rows(self, adata: AnnData | None, **columns: np.ndarray) -> TokenRows:
        """Tokens of the model's genes, found by name: other orders and extra genes do not matter."""
        adata = _checks.anndata(self.adata if adata is None else adata)
        csr, record = _checks.tokens(adata, self.layer, self.config.n_bins)
        _checks.same_binning(record, self.binning, self.layer)
        _checks.enough_matched(self.genes, adata.var_names, "adata.var_names", min_matched=0.5)
        csr = _take_columns(csr, adata.var_names.get_indexer(self.genes))
        if self.config.tokens == "expressed":
            _checks.tokens_in_every_cell(np.diff(csr.indptr), adata, self.layer)
        return TokenRows(csr, self.config.tokens, end_token=self.config.end_token, **columns)

    def _batches(self, data: TokenRows, batch_size: int | None, what: str) -> Iterator[Batch]:
        """All cells once, on the model's device, with a progress bar on a terminal."""
        longest = self.config.n_positions if self.config.tokens == "all" else int(data.lengths().max())
        fits = _FEATURES_PER_BATCH // (self.config.n_heads * self.config.features * longest)
        batches = in_order_of_length(data, batch_size or int(np.clip(fits, 1, 256)))
        self.module.eval()
        with torch.inference_mode():
            for batch in tqdm(batches, desc=what, unit="batch", disable=None):
                yield {name: tensor.to(self.module.device) for name, tensor in batch.items()}

    def _collect(
        self, adata: AnnData | None, batch_size: int | None, width: Sequence[int], infer: Callable[..., Sequence[Tensor]]
    ) -> list[np.ndarray]:
        """Results of `infer` for every cell, in the order of the cells."""
        data = self._rows(adata)
        found = [np.empty((len(data), w), np.float32) for w in width]
        for batch in self._batches(data, batch_size, "cells"):
            results = infer(batch["tokens"], batch.get("genes"), batch.get("keep"))
            for place, result in zip(found, results, strict=True):
                place[batch["rows"].cpu().numpy()] = result.float().cpu().numpy()
        return found

    def get_latent_representation(self, adata: AnnData | None = None, *, batch_size: int | None = None) -> np.ndarray:
        """Embed cells: the mean over a cell's refined tokens.

        Parameters
        ----------
        adata
            Cells with the binned layer; genes are matched by name. None: the AnnData the model was made with.
        batch_size
            Cells at a time; affects speed and memory, not results.

        Returns
        -------
        float32 (cells, n_hidden).
        """
        (latent,) = self._collect(adata, batch_size, [self.config.n_hidden], lambda *x: [self._embed(*x)])
        return latent

    def _embed(self, tokens: Tensor, genes: Tensor | None, keep: Tensor | None) -> Tensor:
        return mean_tokens(self.module.encode(tokens, genes, keep), keep)

    def get_gene_attention(
        self, groups: pd.Series, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> pd.DataFrame:
        """Mean attention each gene receives, per group of cells.

        The mean over queries, heads, layers and the cells of a group, by the closed form that is linear in the number of
        genes; a gene that does not attend in a cell counts as zero there. Attention that goes to scBERT's end token is left
        out before a column is scaled to sum to 1.

        Parameters
        ----------
        groups
            Group of each cell, in the order of the cells; cells without one are left out.
        adata, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Genes × groups, float64; a column sums to 1.
        """
        categorical = groups.astype("category")
        codes, total = categorical.cat.codes.to_numpy(), np.zeros((len(categorical.cat.categories), self.config.n_positions))
        for rows, genes, received in self._received(adata, batch_size):
            known = codes[rows] >= 0
            place = np.broadcast_to(codes[rows][:, None], genes.shape)[known]
            np.add.at(total, (place, genes[known]), received[known])
        total = total[:, : len(self.genes)]
        share = total / total.sum(1, keepdims=True)
        return pd.DataFrame(share.T, index=self.genes, columns=[str(c) for c in categorical.cat.categories])

    def get_cell_attention(self, adata: AnnData | None = None, *, batch_size: int | None = None) -> sparse.csr_matrix:
        """Attention each gene receives in each cell: CSR float32 (cells, genes of the model); a row sums to 1.

        Only genes that attend are stored, so with ``tokens="expressed"`` it is as sparse as the data.
        """
        parts = []
        for rows, genes, received in self._received(adata, batch_size):
            cell = np.broadcast_to(rows[:, None], genes.shape)
            stored = (received > 0) & (genes < len(self.genes))
            parts.append((received[stored], cell[stored], genes[stored]))
        values, cells, genes = (np.concatenate(column) for column in zip(*parts, strict=True))
        n_cells = len(self.adata if adata is None else adata)
        csr = sparse.csr_matrix((values.astype(np.float32), (cells, genes)), shape=(n_cells, len(self.genes)))
        csr.data /= np.repeat(np.asarray(csr.sum(1)).ravel(), np.diff(csr.indptr))
        return csr

    def _received(
        self, adata: AnnData | None, batch_size: int | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows (b,), genes (b, n) and the attention they receive, mean over layers and heads (b, n)."""
        for batch in self._batches(self._rows(adata), batch_size, "attention"):
            received = self.module.gene_attention(batch["tokens"], batch.get("genes"), batch.get("keep")).mean((0, 2))
            everything = torch.arange(received.shape[1]).expand(received.shape)
            genes = batch["genes"] if "genes" in batch else everything
            yield batch["rows"].cpu().numpy(), genes.cpu().numpy(), received.cpu().numpy()

    # ---- training

    def _parts(self, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
        """Rows of train, val and test; without a split a tenth of the cells validates."""
        if split_key is None:
            return random_split(self.adata.n_obs, 0.1, seed)
        column = _checks.split(self.adata, split_key).to_numpy()
        return {part: np.flatnonzero(column == part) for part in _keys.SPLIT_ORDER}

    def _fit(
        self,
        plan: L.LightningModule,
        splits: TokenSplits,
        *,
        early_stopping: bool,
        seed: int,
        callbacks: Sequence[L.Callback] = (),
        **trainer: Any,
    ) -> None:
        """Run Lightning through scvi-tools' runner; the best epoch's weights are kept where there are validation cells."""
        best = [KeepBest()] if splits.n_val else []
        runner = _scvi.TrainRunner(
            self,
            training_plan=plan,
            data_splitter=splits,
            early_stopping=early_stopping and splits.n_val > 0,
            early_stopping_monitor="validation_loss",
            callbacks=[*callbacks, *best],
            **{"check_val_every_n_epoch": 1, "log_every_n_steps": 1} | trainer,
        )
        self.module.train()  # Lightning leaves the mode as it finds it
        with seeded(seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec")  # Lightning on PyTorch's own changes
            runner()

    # ---- folders

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> None:  # type: ignore[override]
        """Save the model as a folder of text files and safetensors, complete enough to predict without training data.

        Parameters
        ----------
        dir_path
            The folder; it appears whole or not at all.
        overwrite
            Replace a model that is there. A folder that holds anything else is never replaced.

        Raises
        ------
        FileExistsError
            The folder exists and `overwrite` is False, or it holds other files.
        """
        edges = self.binning["edges"]
        learned = edges if isinstance(edges, pd.DataFrame) else None
        _io.save_folder(
            dir_path,
            config={
                "class": type(self).__name__,
                "versions": {"scbert_cll": scbert_cll.__version__, "scvi-tools": _scvi.SCVI_VERSION, "torch": torch.__version__},
                "is_trained": bool(self.is_trained_),
                "setup": self.registry["setup_args"],
                "network": asdict(self.config),
                "binning": self.binning | {"edges": None if learned is not None else self.binning["edges"]},
            },
            genes=list(self.genes),
            weights=self.module.state_dict(),
            labels=self._labels(),
            history=_wide(self.history_),
            edges=learned,
            overwrite=overwrite,
        )

    def _labels(self) -> dict[str, Any] | None:
        return None

    @classmethod
    def load(  # type: ignore[override]
        cls, dir_path: str | os.PathLike[str], adata: AnnData | None = None, *, accelerator: str = "auto"
    ) -> Self:
        """Load a model that :meth:`save` wrote.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            Cells to attach, so that methods can be called without naming them; genes may be in any order.
        accelerator
            ``"auto"`` takes a GPU where there is one; ``"cpu"`` or ``"gpu"`` decide.

        Raises
        ------
        FileNotFoundError, ValueError
            The folder is missing, incomplete, damaged, of another class or not a model of this package.
        """
        saved = _io.load_folder(dir_path)
        config = saved["config"]
        if config["class"] != cls.__name__:
            raise ValueError(f"{dir_path} holds a {config['class']}, not a {cls.__name__}; use {config['class']}.load.")
        # excluded genes are not in the saved vocabulary, so nothing is left to exclude
        registry = _scvi.detached_registry(cls.__name__, saved["genes"], config["setup"])
        network = {name: value for name, value in config["network"].items() if name not in _DERIVED}
        binning = config["binning"] | ({} if saved["edges"] is None else {"edges": saved["edges"]})
        model = cls(registry=registry, binning=binning, **(saved["labels"] or {}), **network)
        model.module.load_state_dict(saved["weights"])
        use_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        model.module.to("cuda" if use_gpu else "cpu")
        model.is_trained_ = config["is_trained"]
        model.history_ = _long(saved["history"])
        if adata is not None:
            model._adata = _checks.anndata(adata)
        return model


def _gene_vectors(adata: AnnData, genes: pd.Index) -> Tensor:
    """Rows of varm['gene2vec'] for the model's genes."""
    remedy = 'Make them with tl.gene2vec(adata), or choose gene_embedding="learned".'
    _checks.key_in(_keys.GENE2VEC, adata.varm, "adata.varm", remedy)
    vectors = np.asarray(adata.varm[_keys.GENE2VEC], dtype=np.float32)
    return torch.from_numpy(vectors[adata.var_names.get_indexer(genes)])


def _take_columns(csr: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """Columns by number, -1 for one of zeros; sorted, and without stored zeros."""
    if not np.array_equal(columns, np.arange(csr.shape[1])):
        padded = sparse.csr_matrix((csr.data, csr.indices, csr.indptr), shape=(csr.shape[0], csr.shape[1] + 1))
        csr = padded[:, np.where(columns < 0, csr.shape[1], columns)]
    csr = sparse.csr_matrix(csr, copy=not csr.has_canonical_format or bool((csr.data == 0).any()))
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _wide(history: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame | None:
    return pd.concat([frame for frame in history.values()], axis=1) if history else None


def _long(history: pd.DataFrame | None) -> dict[str, pd.DataFrame] | None:
    return None if history is None else {str(name): history[[name]].dropna() for name in history}
