"""Checkpoints of scBERT, in and out.

scBERT saves ``{"epoch", "model_state_dict", "losses"}`` with `torch.save`. One table says where
each of its tensors lies in our network; both directions read it. The file knows neither genes nor
classes nor how counts were cut into tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from scbert_cll._disk.formats import same, versions
from scbert_cll._disk.in_place import replace
from scbert_cll.model._tensors import bits, usable
from scbert_cll.nn import Config

type Tensors = dict[str, Tensor]


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
COUNTER: Final = "performer.calls_since_last_redraw"
GENES: Final = Place(
    "pos_emb.emb.weight", "gene_embedding.weight", ("positions", "width"), torch.float64
)
_BLOCK: Final = (  # performer.net.layers.{i}. in theirs, blocks.{i}. in ours
    Place("0.norm.weight", "attention_norm.weight", ("width",)),
    Place("0.norm.bias", "attention_norm.bias", ("width",)),
    Place(
        "0.fn.fast_attention.projection_matrix",
        "attention.projection",
        ("features", "dim_head"),
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
    places += [GENES] if gene_vectors else []
    places.append(Place(COUNTER, "", (), torch.int64))
    for i in range(n_layers):
        places += [
            Place(f"performer.net.layers.{i}.{theirs}", f"blocks.{i}.{ours}", shape)
            for theirs, ours, shape, _ in _BLOCK
        ]
    return [*places, *_NORM, *(_CLASSES if classes else _BINS)]


def to_ours(theirs: Mapping[str, Tensor], places: Iterable[Place]) -> Tensors:
    """From scBERT's tensors to our weights."""
    parts: dict[str, list[Tensor]] = {}
    for place in places:
        if place.ours:
            parts.setdefault(place.ours, []).append(theirs[place.theirs].float())
    stacked = {ours: torch.cat(tensors) for ours, tensors in parts.items()}
    return {ours: t.flatten(0, -2) if t.ndim > 2 else t for ours, t in stacked.items()}


def to_theirs(ours: Mapping[str, Tensor], places: list[Place]) -> Tensors:
    """From our weights to scBERT's tensors; none shares memory with ours."""
    theirs = {}
    for place in places:
        tensor = torch.zeros(())
        if place.ours:
            stacked = [other.theirs for other in places if other.ours == place.ours]
            tensor = ours[place.ours].chunk(len(stacked))[stacked.index(place.theirs)]
        tensor = tensor[(None,) * (len(place.shape) - tensor.ndim)]
        tensor = tensor.detach().to("cpu", place.dtype, copy=True)
        theirs[place.theirs] = tensor.contiguous()
    return theirs


def write_scbert_checkpoint(path: Path, ours: Tensors, config: Config) -> None:
    """Write what scBERT saves: aside, read back and renamed."""
    usable(ours)
    has_vectors, has_classes = config.gene_embedding != "none", bool(config.n_classes)
    places = layout(config.n_layers, gene_vectors=has_vectors, classes=has_classes)
    content = {
        "epoch": 0,
        "model_state_dict": to_theirs(ours, places),
        "losses": 0.0,
        # whoever reads the weights by their name passes this over
        "versions": versions("torch"),
    }

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            torch.save(content, file)

    def is_written(aside: Path) -> bool:
        loaded = torch.load(aside, map_location="cpu", weights_only=True)
        return same(bits(loaded), bits(content))

    replace(path, write, is_written)
