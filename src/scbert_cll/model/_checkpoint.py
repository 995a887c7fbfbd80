"""Checkpoints of scBERT, in and out.

scBERT saves ``{"epoch", "model_state_dict", "losses"}`` with `torch.save`. One table says where each of its tensors lies in our
network; both directions read it. The file knows neither genes nor classes nor how counts were cut into tokens.
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from scbert_cll import _checks, _keys, pp
from scbert_cll.model import _scvi
from scbert_cll.model._base import TokenModel
from scbert_cll.nn import Config, favor
from scbert_cll.vocab import GeneVocab, Vocabulary


class Place(NamedTuple):
    """A tensor of scBERT's, and where it lies in our network; several with the same name of ours are stacked in it."""

    theirs: str
    ours: str
    shape: tuple[int | str, ...]  # names stand for sizes that all tensors must agree on
    dtype: torch.dtype = torch.float32


# What else is in the file: when random features were drawn last. Ours are never drawn anew in a finished network.
_COUNTER: Final = "performer.calls_since_last_redraw"
_GENES: Final = Place("pos_emb.emb.weight", "gene_embedding.weight", ("positions", "width"), torch.float64)
_BLOCK: Final = (  # performer.net.layers.{i}. in theirs, blocks.{i}. in ours
    Place("0.norm.weight", "attention_norm.weight", ("width",)),
    Place("0.norm.bias", "attention_norm.bias", ("width",)),
    Place("0.fn.fast_attention.projection_matrix", "attention.projection", ("features", "dim_head")),
    Place("0.fn.to_q.weight", "attention.qkv.weight", ("inner", "width")),
    Place("0.fn.to_k.weight", "attention.qkv.weight", ("inner", "width")),
    Place("0.fn.to_v.weight", "attention.qkv.weight", ("inner", "width")),
    Place("0.fn.to_out.weight", "attention.out.weight", ("width", "inner")),
    Place("0.fn.to_out.bias", "attention.out.bias", ("width",)),
    Place("1.norm.weight", "feedforward_norm.weight", ("width",)),
    Place("1.norm.bias", "feedforward_norm.bias", ("width",)),
    Place("1.fn.fn.w1.weight", "feedforward.0.weight", ("units", "width")),
    Place("1.fn.fn.w1.bias", "feedforward.0.bias", ("units",)),
    Place("1.fn.fn.w2.weight", "feedforward.2.weight", ("width", "units")),
    Place("1.fn.fn.w2.bias", "feedforward.2.bias", ("width",)),
)
_NORM: Final = (Place("norm.weight", "norm.weight", ("width",)), Place("norm.bias", "norm.bias", ("width",)))
_BINS: Final = (
    Place("to_out.weight", "to_bins.weight", ("tokens", "width")),
    Place("to_out.bias", "to_bins.bias", ("tokens",)),
)
_CLASSES: Final = (
    Place("to_out.conv1.weight", "head.collapse.weight", (1, 1, 1, "width")),
    Place("to_out.conv1.bias", "head.collapse.bias", (1,)),
    Place("to_out.fc1.weight", "head.layers.0.weight", (512, "positions")),
    Place("to_out.fc1.bias", "head.layers.0.bias", (512,)),
    Place("to_out.fc2.weight", "head.layers.3.weight", (128, 512)),
    Place("to_out.fc2.bias", "head.layers.3.bias", (128,)),
    Place("to_out.fc3.weight", "head.layers.6.weight", ("classes", 128)),
    Place("to_out.fc3.bias", "head.layers.6.bias", ("classes",)),
)

# What the layout takes for granted, and what whoever reads the file does unless told otherwise.
_PUBLISHED: Final = {"out_bias": True, "end_token": True}
_UNSAID: Final = {"tokens": "all", "attention": "favor", "stabilizer": "cell"}
_CHOICES: Final = {*_UNSAID, "dropout", "n_background", "train_gene_embedding"}  # everything else shapes the weights
_DERIVED: Final = {"n_genes", "n_bins", "n_classes"}

# Share of the genes a simulated cell expresses, and how many cells tell whether attention is uniform (seconds each at full size).
_EXPRESSED: Final = 0.09
_N_CELLS: Final = 2
_SIMULATED: Final = f"in a simulated cell that expresses {_EXPRESSED:.0%} of the genes"


def layout(n_layers: int, *, gene_vectors: bool, classes: bool) -> list[Place]:
    """List the tensors of scBERT in the order of its file."""
    places = [Place("token_emb.weight", "token_embedding.weight", ("tokens", "width"))]
    places += [_GENES] if gene_vectors else []
    places.append(Place(_COUNTER, "", (), torch.int64))
    for i in range(n_layers):
        places += [
            Place(f"performer.net.layers.{i}.{theirs}", f"blocks.{i}.{ours}", shape)
            for theirs, ours, shape, _ in _BLOCK
        ]
    return [*places, *_NORM, *(_CLASSES if classes else _BINS)]


def to_ours(theirs: Mapping[str, Tensor], places: Iterable[Place]) -> dict[str, Tensor]:
    """From scBERT's tensors to our weights."""
    parts: dict[str, list[Tensor]] = {}
    for place in places:
        if place.ours:
            parts.setdefault(place.ours, []).append(theirs[place.theirs].float())
    stacked = {ours: torch.cat(tensors) for ours, tensors in parts.items()}
    return {ours: tensor.flatten(0, -2) if tensor.ndim > 2 else tensor for ours, tensor in stacked.items()}


def to_theirs(ours: Mapping[str, Tensor], places: list[Place]) -> dict[str, Tensor]:
    """From our weights to scBERT's tensors; none shares memory with ours."""
    theirs = {}
    for place in places:
        stacked = [other.theirs for other in places if other.ours == place.ours]
        tensor = ours[place.ours].chunk(len(stacked))[stacked.index(place.theirs)] if place.ours else torch.zeros(())
        tensor = tensor[(None,) * (len(place.shape) - tensor.ndim)]
        theirs[place.theirs] = tensor.detach().to("cpu", place.dtype, copy=True)
    return theirs


class Checkpoint:
    """The tensors of a file, the places they should have, and the sizes most of them agree on.

    Only weights are read (``weights_only=True``): nothing in the file is executed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.tensors = _read(self.path)
        self.finetuned = any(name.startswith(("to_out.conv", "to_out.fc")) for name in self.tensors)
        self.gene_vectors = _GENES.theirs in self.tensors
        layers = {found[1] for name in self.tensors if (found := re.match(r"performer\.net\.layers\.(\d+)\.", name))}
        self.n_layers = len(layers) or 1
        self.places = layout(self.n_layers, gene_vectors=self.gene_vectors, classes=self.finetuned)
        self.sizes = self._sizes()

    def _sizes(self) -> dict[str, int]:
        """Size of every dimension, by majority: one odd tensor is then the one that is named."""
        said: dict[str, Counter[int]] = {}
        for place in self.places:
            shape = self.tensors[place.theirs].shape if place.theirs in self.tensors else ()
            if len(shape) == len(place.shape):
                for name, size in zip(place.shape, shape, strict=True):
                    said.setdefault(str(name), Counter())[size] += 1
        return {name: sizes.most_common(1)[0][0] for name, sizes in said.items()}

    def problems(self) -> list[str]:
        """Everything about the tensors that does not fit, a sentence each."""
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        expected = {
            p.theirs: tuple(self.sizes.get(d, d) if isinstance(d, str) else d for d in p.shape) for p in self.places
        }
        return _checks.layout_problems(found, expected, {_COUNTER}) or self._odd_values()

    def _odd_values(self) -> list[str]:
        """Tensors of the right shape that still make no network."""
        problems, sizes = [], self.sizes
        if sizes["tokens"] < 3:
            problems.append(
                f"token_emb.weight has {sizes['tokens']} rows, expected at least 3: not expressed, a bin and the mask"
            )
        for large, small in (("inner", "dim_head"), ("units", "width")):
            if not sizes[large] * sizes[small] or sizes[large] % sizes[small]:
                problems.append(f"{large} ({sizes[large]}) is no multiple of {small} ({sizes[small]})")
        bad = [name for name, tensor in self.tensors.items() if not bool(tensor.float().isfinite().all())]
        if bad:
            problems.append(f"values that are no finite numbers in {_checks.listed(bad)}")
        return problems

    def config(self, n_genes: int | None = None) -> Config:
        """Dimensions of the network; without positions the number of genes is not in the file."""
        sizes = self.sizes
        return Config(
            n_genes=sizes.get("positions", 1) - 1 if n_genes is None else n_genes,
            n_bins=sizes["tokens"] - 2,
            n_hidden=sizes["width"],
            n_layers=self.n_layers,
            n_heads=sizes["inner"] // sizes["dim_head"],
            dim_head=sizes["dim_head"],
            n_features=sizes["features"],
            n_feedforward=sizes["units"] // sizes["width"],
            dropout=0.0,
            gene_embedding="gene2vec" if self.gene_vectors else "none",
            train_gene_embedding=False,
            tokens="all",
            end_token=True,
            head="scbert",
            n_classes=sizes["classes"] if self.finetuned else 0,
        )

    def check(self, genes: pd.Index, gene2vec: pd.DataFrame | None, classes: list[str] | None) -> None:
        """The tensors make a network, and it fits the genes and classes; whatever does not is said at once."""
        _checks.checkpoint_kind(self.path, finetuned=self.finetuned, expected=classes is not None)
        problems = self.problems()
        fixed = self.finetuned or (self.gene_vectors and gene2vec is None)
        positions = self.sizes.get("positions") if fixed else None
        problems += _checks.vocabulary_problems(len(genes), positions, replaceable=not self.finetuned)
        if classes is not None:
            problems += _checks.class_problems(classes, self.sizes.get("classes"))
        if gene2vec is not None:
            problems += _checks.gene_vector_problems(gene2vec, genes, self.sizes.get("width"))
            if not self.gene_vectors:
                problems.append("gene2vec is given, and the checkpoint's network does without gene vectors")
        _checks.no_problems(f"{self.path} does not fit", problems)

    def weights(self, genes: pd.Index, gene2vec: pd.DataFrame | None) -> dict[str, Tensor]:
        """Our weights; with `gene2vec` its vectors take the place of the stored ones, and the end token keeps its own."""
        weights = to_ours(self.tensors, self.places)
        if gene2vec is not None:
            vectors = torch.from_numpy(gene2vec.loc[genes].to_numpy(np.float32, copy=True))
            weights[_GENES.ours] = torch.cat([vectors, weights[_GENES.ours][-1:]])
        return weights


def read_scbert_checkpoint(path: str | os.PathLike[str]) -> tuple[Config, dict[str, Tensor]]:
    """Read a checkpoint in the layout scBERT saves, as our `Config` and state dict.

    The number of genes comes from the positions of the gene embedding, less the end token; without one it is not in the file,
    and `n_genes` is 0.
    """
    checkpoint = Checkpoint(path)
    _checks.no_problems(f"{path} is no whole checkpoint of scBERT", checkpoint.problems())
    return checkpoint.config(), to_ours(checkpoint.tensors, checkpoint.places)


class CheckpointModel(TokenModel):
    """A model that comes from a checkpoint of scBERT, and that can be written as one."""

    def to_scbert_checkpoint(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the weights as a checkpoint that scBERT reads.

        The file holds weights alone. Keep the genes beside it (``GeneVocab(model.genes).save("genes.txt")``), and the classes
        of a classifier: :meth:`from_scbert_checkpoint` asks for them. :meth:`save` forgets nothing.

        Parameters
        ----------
        path
            The file, usually ``.pth``; it appears whole or not at all.
        overwrite
            Replace a file that is there.

        Raises
        ------
        FileExistsError
            The file exists and `overwrite` is False, or it is a folder.
        ValueError
            scBERT's layout has no place for this network: it has no end token, no bias behind the attention or another head.

        Warns
        -----
        UserWarning
            The network or its tokens are used in another way than scBERT does, which a checkpoint cannot say.
        """
        path = Path(path)
        _checks.new_file(path, overwrite=overwrite)
        classes = bool(self.config.n_classes)
        _checks.fits_scbert(asdict(self.config), _PUBLISHED | ({"head": "scbert"} if classes else {}))
        if unsaid := self._unsaid():
            warnings.warn(
                f"A checkpoint cannot say {_checks.listed(unsaid, 8)}: whoever reads it takes scBERT's choices, and gets other results.",
                stacklevel=2,
            )
        gene_vectors = self.config.gene_embedding != "none"
        places = layout(self.config.n_layers, gene_vectors=gene_vectors, classes=classes)
        _write(path, {"epoch": 0, "model_state_dict": to_theirs(self.module.state_dict(), places), "losses": 0.0})

    def _unsaid(self) -> list[str]:
        """Choices that matter, differ from scBERT's, and have no place in the file."""
        params, published = self.binning["params"], _binning(self.config.n_bins)["params"]
        found = {name: (getattr(self.config, name), value) for name, value in _UNSAID.items()}
        found |= {f"binning's {name}": (params[name], published[name]) for name in ("method", "target_sum")}
        return [f"{name}={ours!r} (scBERT: {theirs!r})" for name, (ours, theirs) in found.items() if ours != theirs]

    @classmethod
    def _from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        vocab: Vocabulary,
        gene2vec: pd.DataFrame | None,
        adata: AnnData | None,
        *,
        layer: str,
        accelerator: str,
        network: dict[str, Any],
        labels: dict[str, Any] | None = None,
    ) -> Self:
        """What both models share of `from_scbert_checkpoint`; `labels` has the arguments of a classifier."""
        if other := sorted(set(network) - _CHOICES):
            raise TypeError(
                f"{_checks.listed(other)} would not fit the checkpoint's weights; you may choose {_checks.listed(sorted(_CHOICES), 8)}."
            )
        labels, classes = labels or {}, labels["classes"] if labels else None
        genes, checkpoint = GeneVocab.of(vocab).names, Checkpoint(path)
        checkpoint.check(genes, gene2vec, classes)
        config = checkpoint.config(len(genes))
        setup = {k: v for k, v in labels.items() if k != "classes"} | {"layer": layer, "exclude_genes": []}
        registry = _scvi.detached_registry(cls.__name__, list(genes), setup)
        choices = {k: v for k, v in asdict(config).items() if k not in _DERIVED} | network
        model = cls(registry=registry, binning=_binning(config.n_bins), **labels, **choices)
        model.module.load_state_dict(model.module.state_dict() | checkpoint.weights(genes, gene2vec))
        use_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        model.module.to("cuda" if use_gpu else "cpu")
        model.is_trained_ = True
        if adata is not None:
            model._adata = _checks.anndata(adata)
        model._warn_if_uniform(adata)
        return model

    def _fit(self, *args: Any, **kwargs: Any) -> None:
        """Train; a model that comes trained but without a history starts one, for which scvi-tools must think it untrained."""
        trained = self.is_trained_
        self.is_trained_ = trained and bool(self.history_)
        try:
            super()._fit(*args, **kwargs)
        except Exception:
            self.is_trained_ = trained
            raise

    def _warn_if_uniform(self, adata: AnnData | None) -> None:
        if self.config.attention != "favor":
            return
        cells, where = (adata, "in these cells") if adata is not None else (self._simulated_cell(), _SIMULATED)
        floor = self.get_attention_floor(cells, n_cells=_N_CELLS).min()
        if floor > favor.UNIFORM:
            warnings.warn(
                f"Attention of the checkpoint's network is nearly uniform {where}: in every layer at least {floor:.0%} of its features "
                "are their constant floor, so gene attention will mostly say which genes are there.",
                stacklevel=4,
            )

    def _simulated_cell(self) -> AnnData:
        """One cell that expresses some genes, at random levels."""
        rng, n_genes = np.random.default_rng(0), len(self.genes)
        expressed = rng.choice(n_genes, max(1, round(_EXPRESSED * n_genes)), replace=False)
        tokens = np.zeros((1, n_genes), np.uint8)
        tokens[0, expressed] = rng.integers(1, self.config.n_bins + 1, len(expressed))
        layers = {self.layer: sparse.csr_matrix(tokens)}
        return AnnData(layers=layers, var=pd.DataFrame(index=self.genes), uns={self.layer: self.binning})


def _binning(n_bins: int) -> dict[str, Any]:
    """What `pp.bin_expression` writes down for scBERT's tokens, which are the same whatever the cells."""
    cell = AnnData(np.ones((1, 2)))
    pp.bin_expression(cell, method="log2", n_bins=n_bins, target_sum=1e4)
    record: dict[str, Any] = cell.uns[_keys.BINNED]
    return record


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    _checks.checkpoint_file(path)
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):  # on pickles that are refused anyway
        pickled = file.read(1) == b"\x80"
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(_checks.unreadable(path, _foreign(error, pickled=pickled))) from error
    return _checks.state_dict(content, Tensor, path)


def _foreign(error: Exception, *, pickled: bool) -> str | None:
    """Name what is more than a weight; None where the file is something else altogether."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    return "pickled Python objects" if pickled else None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write aside and rename, so that a crash leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with aside.open("wb") as file:
            torch.save(content, file)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
