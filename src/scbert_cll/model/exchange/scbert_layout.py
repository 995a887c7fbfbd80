"""Checkpoints of scBERT, in and out.

scBERT saves ``{"epoch", "model_state_dict", "losses"}`` with `torch.save`. One table says where
each of its tensors lies in our network; both directions read it. The file knows neither genes nor
classes nor how counts were cut into tokens.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scbert_cll._checks.words import listed
from scbert_cll._disk.formats import same, versions
from scbert_cll._disk.in_place import replace
from scbert_cll.model._tensors import bits, usable
from scbert_cll.model.exchange import problems as _problems
from scbert_cll.nn import Config


class Place(NamedTuple):
    """A tensor of scBERT's, and where it lies in our network.

    Several with the same name of ours are stacked in it.
    """

    theirs: str
    ours: str
    shape: tuple[int | str, ...]  # names stand for sizes that all tensors must agree on
    dtype: torch.dtype = torch.float32


# What else is in the file: when random features were drawn last. Ours are never drawn anew in a
# finished network.
_COUNTER: Final = "performer.calls_since_last_redraw"
_GENES: Final = Place(
    "pos_emb.emb.weight", "gene_embedding.weight", ("positions", "width"), torch.float64
)
_BLOCK: Final = (  # performer.net.layers.{i}. in theirs, blocks.{i}. in ours
    Place("0.norm.weight", "attention_norm.weight", ("width",)),
    Place("0.norm.bias", "attention_norm.bias", ("width",)),
    Place(
        "0.fn.fast_attention.projection_matrix", "attention.projection", ("features", "dim_head")
    ),
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
_NORM: Final = (
    Place("norm.weight", "norm.weight", ("width",)),
    Place("norm.bias", "norm.bias", ("width",)),
)
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
    return {
        ours: tensor.flatten(0, -2) if tensor.ndim > 2 else tensor
        for ours, tensor in stacked.items()
    }


def to_theirs(ours: Mapping[str, Tensor], places: list[Place]) -> dict[str, Tensor]:
    """From our weights to scBERT's tensors; none shares memory with ours."""
    theirs = {}
    for place in places:
        stacked = [other.theirs for other in places if other.ours == place.ours]
        tensor = (
            ours[place.ours].chunk(len(stacked))[stacked.index(place.theirs)]
            if place.ours
            else torch.zeros(())
        )
        tensor = tensor[(None,) * (len(place.shape) - tensor.ndim)]
        theirs[place.theirs] = tensor.detach().to("cpu", place.dtype, copy=True).contiguous()
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
        layers = {
            found[1]
            for name in self.tensors
            if (found := re.match(r"performer\.net\.layers\.(\d+)\.", name))
        }
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
            p.theirs: tuple(self.sizes.get(d, d) if isinstance(d, str) else d for d in p.shape)
            for p in self.places
        }
        return _problems.layout_problems(found, expected, {_COUNTER}) or self._odd_values()

    def _odd_values(self) -> list[str]:
        """Tensors of the right shape that still make no network."""
        problems, sizes = [], self.sizes
        if sizes["tokens"] < 3:
            problems.append(
                f"token_emb.weight has {sizes['tokens']} rows, expected at least 3: not "
                f"expressed, a bin and the mask"
            )
        for large, small in (("inner", "dim_head"), ("units", "width")):
            if not sizes[large] * sizes[small] or sizes[large] % sizes[small]:
                problems.append(
                    f"{large} ({sizes[large]}) is no multiple of {small} ({sizes[small]})"
                )
        bad = [
            name
            for name, tensor in self.tensors.items()
            if not bool(tensor.float().isfinite().all())
        ]
        if bad:
            problems.append(f"values that are no finite numbers in {listed(bad)}")
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
            n_random_features=sizes["features"],
            n_feedforward=sizes["units"] // sizes["width"],
            dropout=0.0,
            gene_embedding="gene2vec" if self.gene_vectors else "none",
            train_gene_embedding=False,
            tokens="all",
            end_token=True,
            head="scbert",
            n_classes=sizes["classes"] if self.finetuned else 0,
        )

    def check(
        self, genes: pd.Index, gene2vec: pd.DataFrame | None, classes: list[str] | None
    ) -> None:
        """The tensors make a network, and it fits the genes and classes.

        Whatever does not is said at once.
        """
        _problems.checkpoint_kind(self.path, finetuned=self.finetuned, expected=classes is not None)
        problems = self.problems()
        fixed = self.finetuned or (self.gene_vectors and gene2vec is None)
        positions = self.sizes.get("positions") if fixed else None
        problems += _problems.vocabulary_problems(
            len(genes), positions, replaceable=not self.finetuned
        )
        if classes is not None:
            problems += _problems.class_problems(classes, self.sizes.get("classes"))
        if gene2vec is not None:
            problems += _problems.gene_vector_problems(gene2vec, genes, self.sizes.get("width"))
            if not self.gene_vectors:
                problems.append(
                    "gene2vec is given, and the checkpoint's network does without gene vectors"
                )
        _problems.no_problems(f"{self.path} does not fit", problems)

    def weights(self, genes: pd.Index, gene2vec: pd.DataFrame | None) -> dict[str, Tensor]:
        """Our weights.

        With `gene2vec` its vectors take the place of the stored ones, and the end token keeps its
        own.
        """
        weights = to_ours(self.tensors, self.places)
        if gene2vec is not None:
            vectors = torch.from_numpy(gene2vec.loc[genes].to_numpy(np.float32, copy=True))
            weights[_GENES.ours] = torch.cat([vectors, weights[_GENES.ours][-1:]])
        return weights


def read_scbert_checkpoint(path: str | os.PathLike[str]) -> tuple[Config, dict[str, Tensor]]:
    """Read a checkpoint in the layout scBERT saves, as our `Config` and state dict.

    The number of genes comes from the positions of the gene embedding, less the end token; without
    one it is not in the file, and `n_genes` is 0.
    """
    checkpoint = Checkpoint(path)
    _problems.no_problems(f"{path} is no whole checkpoint of scBERT", checkpoint.problems())
    return checkpoint.config(), to_ours(checkpoint.tensors, checkpoint.places)


def write_scbert_checkpoint(path: Path, ours: Mapping[str, Tensor], config: Config) -> None:
    """Write what scBERT saves, aside, read back and renamed, so that a crash leaves the old file as it was."""
    usable(ours)
    places = layout(
        config.n_layers,
        gene_vectors=config.gene_embedding != "none",
        classes=bool(config.n_classes),
    )
    content = {"epoch": 0, "model_state_dict": to_theirs(ours, places), "losses": 0.0}
    content["versions"] = versions(
        "torch"
    )  # whoever reads the weights by their name passes this over
    replace(path, lambda aside: _save(aside, content), lambda aside: _is(aside, content))


def _save(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        torch.save(content, file)


def _is(path: Path, content: Mapping[str, Any]) -> bool:
    return same(bits(torch.load(path, map_location="cpu", weights_only=True)), bits(content))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    _problems.checkpoint_file(path)
    with (
        path.open("rb") as file,
        warnings.catch_warnings(action="ignore"),
    ):  # on pickles that are refused anyway
        pickled = file.read(1) == b"\x80"
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                _problems.unreadable(path, _foreign(error, pickled=pickled))
            ) from error
    tensors = _problems.state_dict(content, Tensor, path)
    _problems.held_by_the_file(
        {name: one.numel() * one.element_size() for name, one in tensors.items()}, path
    )
    return tensors


def _foreign(error: Exception, *, pickled: bool) -> str | None:
    """Name what is more than a weight; None where the file is something else altogether."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    return "pickled Python objects" if pickled else None
