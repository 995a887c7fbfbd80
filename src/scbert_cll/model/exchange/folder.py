"""The file format of a model: a folder.

A model is a folder that a text editor can read: ``config.json`` (network, setup, binning, versions,
checksums of all files and of itself), ``vocab.txt`` (one gene per line, in the network's order),
``labels.json`` (classifiers), ``history.csv``, ``edges.csv`` (bins learned per gene),
``linear.safetensors`` (the logistic regression beside a classifier) and ``weights.safetensors``.
Nothing in it is executed when it is read, and of these files only those that ``config.json`` lists
are read: one that it does not list is another model's, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from scbert_cll._checks.files import FilePath
from scbert_cll._disk import formats
from scbert_cll._disk.formats import Arrays, Json
from scbert_cll._disk.in_place import replace, settle, whole, written
from scbert_cll._disk.manifests import NUMBER, Each, Format, Keys, Maybe, misfits
from scbert_cll.model._tensors import bits, usable

FORMAT: Final = "scbert_cll model"
# 2: with the linear part; 3: its arrays lie in the order they are read in, whichever safetensors
# wrote them; 4: config.json has a checksum of itself
FORMAT_VERSION: Final = 4
CONFIG, VOCAB, LABELS = "config.json", "vocab.txt", "labels.json"
WEIGHTS, LINEAR = "weights.safetensors", "linear.safetensors"
HISTORY, EDGES = "history.csv", "edges.csv"
_NEEDED: Final = (CONFIG, VOCAB, WEIGHTS)
# no other file is a model's
FILES: Final = CONFIG, VOCAB, LABELS, WEIGHTS, HISTORY, EDGES, LINEAR
REMEDY: Final = "Restore the folder from a copy, or save the model again."
_COMBINE: Final = re.compile("none|average|residual")
_JOINED: Final = Keys({"combine": _COMBINE, "strength": NUMBER})
_LABELS_KINDS: Final = Keys({"labels_key": str, "classes": [str]})
_PARAMS: Final = Keys({"n_bins": int})
_BINNING: Final = Keys({"params": _PARAMS}, {"edges": Maybe([NUMBER])})
_WRITERS: Final = ("scvi-tools", "torch", "safetensors", "numpy", "pandas", "scikit-learn")
_CONFIG: Final = Format(
    FORMAT,
    "a model folder",
    version=FORMAT_VERSION,
    sealed=4,
    writers=_WRITERS,
    kinds=Keys(
        {
            "format_version": int,
            "sha256": Each(str, "|".join(map(re.escape, sorted({*FILES} - {CONFIG})))),
            "class": str,
            "is_trained": bool,
            "setup": Keys({"layer": str}),
            "network": Keys({}),
            "binning": _BINNING,
        },
        {"kept_epoch": Maybe(int), "joined": Maybe(_JOINED)},
    ),
    remedy=REMEDY,
)
# the first version whose arrays are sure to lie in the order they are read in
ORDERED: Final = 3
MANY: Final = 3  # classes

Order = Literal["C", "F"]


@dataclass(frozen=True)
class Saved:
    """A model as its folder holds it."""

    config: Json
    genes: list[str]
    weights: Mapping[str, Tensor]
    labels: Json | None = None
    history: pd.DataFrame | None = None
    edges: pd.DataFrame | None = None  # of every gene, where they were learned
    linear: Arrays | None = None

    @property
    def binning(self) -> Json:
        """Record of pp.bin_expression."""
        edges = {} if self.edges is None else {"edges": self.edges}
        return {**self.config["binning"], **edges}


def save_folder(path: FilePath, model: Saved, *, overwrite: bool = False) -> None:
    """Write a model folder aside, load it and compare, and rename it into place.

    A crash leaves the old one as it was.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is False, or it holds files that are not a model's.
    ValueError
        Weights are not finite.
    NotAsWrittenError
        What is loaded is not what was to be saved.
    """
    usable(model.weights)
    usable(model.linear or {}, "The logistic regression beside the network")
    path = Path(path).resolve()
    may_replace(path, overwrite=overwrite)

    def write(aside: Path) -> None:
        _refuse_others(path, overwrite=overwrite)  # by now nobody else writes there
        _write(aside, model)

    replace(path, write, lambda aside: _is(load_folder(aside), model))


def _write(folder: Path, model: Saved) -> None:
    folder.mkdir()
    for name, arrays in ((WEIGHTS, model.weights), (LINEAR, model.linear)):
        if arrays is not None:
            # safetensors' save_file would make it unreadable for the group
            (folder / name).write_bytes(serialize(_contiguous(arrays)))
    written(folder / VOCAB, *formats.as_names(model.genes))
    if model.labels is not None:
        written(folder / LABELS, *formats.as_json(model.labels))
    if model.history is not None:
        written(folder / HISTORY, *formats.as_numbers(model.history, "epoch"))
    if model.edges is not None:
        written(folder / EDGES, *formats.as_numbers(model.edges, "gene"))
    sums = formats.checksums(folder, sorted(folder.iterdir()))
    written(folder / CONFIG, *formats.as_json(_CONFIG.complete(model.config, sums)))


def _contiguous(arrays: Mapping[str, Tensor] | Arrays) -> dict[str, Tensor]:
    """Arrays for safetensors, which may write memory order whatever the strides (0.8 does)."""
    tensors = {}
    for name, array in arrays.items():
        array = np.asarray(array, order="C") if isinstance(array, np.ndarray) else array
        tensors[name] = torch.as_tensor(array).detach().cpu().contiguous()
    return tensors


def _is(loaded: Saved, model: Saved) -> bool:
    """Whether a loaded folder is the model that was to be saved, to the bit."""

    def parts(saved: Saved) -> list[Any]:
        linear = None if saved.linear is None else bits(_contiguous(saved.linear))
        config = {name: saved.config.get(name) for name in model.config}
        # numbers of tables were compared when they were written
        tables = [saved.history is None, saved.edges is None]
        texts = formats.plain([config, saved.labels, saved.genes, tables])
        return [texts, bits(saved.weights), linear]

    return formats.same(parts(loaded), parts(model))


def load_folder(path: FilePath, *, linear_order: Order | None = None) -> Saved:
    """Read a model folder; its weights are on the CPU.

    Parameters
    ----------
    path
        The folder.
    linear_order
        Of a folder of an older format: how the coefficients of the linear part were written, row by
        row ("C") or column by column ("F").

    Raises
    ------
    FileNotFoundError
        There is no such folder, or files are missing from it.
    ValueError
        It is not a model folder of this package, was written by a newer version, is damaged, or
        holds weights that are not finite; or it is of an older format, has three or more classes,
        and `linear_order` is not given.
    """
    return whole(Path(path), lambda folder: _load(folder, linear_order))


def _load(path: Path, linear_order: Order | None) -> Saved:
    if path.is_file():
        raise ValueError(f"{path} is a file; a model of scbert_cll is a folder.")
    if not path.is_dir():
        raise FileNotFoundError(f"There is no model folder {path}.")
    if missing := [name for name in _NEEDED if not (path / name).is_file()]:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{path} is not a whole model folder of scbert_cll: {', '.join(missing)} missing; it "
            f"holds {names}."
        )
    config = _CONFIG.read(path / CONFIG)
    listed = config["sha256"]
    _refuse_unlisted(path, config)
    for name, expected in listed.items():
        if not (path / name).is_file() or formats.sha256(path / name) != expected:
            raise ValueError(
                f"{path / name} is damaged or missing: its checksum differs from the one in "
                f"{CONFIG}. Restore the folder from a copy."
            )
    history = formats.read_numbers(path / HISTORY) if HISTORY in listed else None
    return Saved(
        config=config,
        genes=formats.read_names(path / VOCAB),
        labels=_read_labels(path / LABELS) if LABELS in listed else None,
        history=None if history is None else history.rename(index=int),
        edges=formats.read_numbers(path / EDGES) if EDGES in listed else None,
        linear=_read_linear(path, config, linear_order) if LINEAR in listed else None,
        weights=_read_tensors(path / WEIGHTS),
    )


def _refuse_unlisted(path: Path, config: Json) -> None:
    """Every needed file is listed, and what else of a model lies there is refused."""
    listed = config["sha256"]
    _CONFIG.lists(config, _NEEDED[1:], path / CONFIG)
    if LINEAR in listed and config.get("joined") is None:
        problem = f"it lists {LINEAR} and does not say how it is joined"
        _CONFIG.refuse([problem], path / CONFIG)
    others = {name for name in FILES if (path / name).exists()} - {CONFIG, *listed}
    if others:
        raise ValueError(
            f"{path} holds {', '.join(sorted(others))}, which {CONFIG} does not list: another "
            f"model was there before, and left it. Delete what is not listed, or save the model "
            f"again."
        )


def _read_labels(path: Path) -> Json:
    """The label column and the classes, each once."""
    labels = formats.read_json(path)
    _CONFIG.refuse(misfits(labels, _LABELS_KINDS), path)
    if len(set(labels["classes"])) < len(labels["classes"]):
        _CONFIG.refuse(["it names a class twice"], path)
    return labels


def _read_linear(path: Path, config: Json, order: Order | None) -> Arrays:
    """Coefficients (classes, genes) and intercept.

    Of an old folder in the order that they are known to have been written in.
    """
    tensors = _read_tensors(path / LINEAR)
    arrays: Arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    if order is not None:
        return {**arrays, "coefficients": in_order(arrays["coefficients"], order)}
    n_classes = len(arrays.get("coefficients", ()))
    if config["format_version"] < ORDERED and n_classes >= MANY:
        raise ValueError(
            f"{path} was saved by an older scbert_cll and has {n_classes} classes. With "
            f"safetensors 0.8 or later that version mixed up the coefficients of the logistic "
            f"regression, and the predictions with them. Remedy: "
            f'sc_cll.model.repair_model({str(path)!r}, "repaired"), then load "repaired".'
        )
    return arrays


def in_order(coefficients: np.ndarray, order: Order) -> np.ndarray:
    """Coefficients (classes, genes) whose bytes were written by row ("C") or column ("F")."""
    numbers = coefficients.reshape(-1)
    return np.ascontiguousarray(numbers.reshape(coefficients.shape, order=order))


def may_replace(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds a model without `overwrite`, or anything else at all."""
    settle(path)
    _refuse_others(path, overwrite=overwrite)


def _refuse_others(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists; pass overwrite=True to replace the model in it, or name another "
            f"folder."
        )
    names = {file.name for file in path.iterdir()} if path.is_dir() else {path.name}
    if others := sorted(names.difference(FILES) if path.is_dir() else names):
        raise FileExistsError(
            f"{path} holds files that are not a model's ({', '.join(others[:5])}); name another "
            f"folder."
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    usable(tensors, str(path))
    return tensors
