"""Checks of scBERT checkpoints: everything that does not fit, at once and by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scbert_cll._checks.paths import plain_file, stored_archive
from scbert_cll._checks.words import bytes_in_words, listed, unique

type Shape = tuple[int | str, ...]

_KINDS = {
    False: "a pretrained network, without classes",
    True: "a network fine-tuned to name classes",
}
_DOORS = {
    False: "ScBERT.from_scbert_checkpoint(path, vocab=…), and "
    "ScBERTClassifier.from_pretrained(model, adata, labels_key=…) "
    "to train a classifier from it",
    True: "ScBERTClassifier.from_scbert_checkpoint(path, vocab=…, classes=…)",
}


def checkpoint_file(path: Path) -> None:
    """A file that is there."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, and a checkpoint of scBERT is one file. A model folder of "
            f"this package is read with .load(folder)."
        )
    plain_file(path, "checkpoint")
    stored_archive(path)


def unreadable(path: Path, foreign: str | None) -> str:
    """Say why a file was not read: it holds more than weights, or something else altogether."""
    if foreign is None:
        return (
            f"{path} is not a checkpoint, or it is damaged; expected a file that torch.save wrote."
        )
    return (
        f"{path} holds {foreign}, no weights alone: to read it, code that it names would have "
        f"to be run, so it was refused. "
        'Where you trust it, save its weights alone: torch.save({"model_state_dict": '
        "model.state_dict()}, path)."
    )


def state_dict(content: Any, tensor: type, path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by name."""
    found = content.get("model_state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(found, Mapping) or not found:
        raise ValueError(
            f"{path} holds a {type(found).__name__}; a checkpoint of scBERT holds a dict with "
            f"tensors by name, as 'model_state_dict'."
        )
    other = [name for name, value in found.items() if not isinstance(value, tensor)]
    if other:
        raise ValueError(
            f"{path} is no checkpoint of scBERT: expected a tensor for every name, found "
            f"something else for {listed(other)}."
        )
    return {str(name): value for name, value in found.items()}


def held_by_the_file(n_bytes: Mapping[str, int], path: Path) -> None:
    """Tensors that are no larger than the file: one number may be said to be a tensor of any shape."""
    size = path.stat().st_size
    if sum(n_bytes.values()) > size:
        largest = max(n_bytes, key=lambda name: n_bytes[name])
        raise ValueError(
            f"{path} is damaged: its tensors are said to hold "
            f"{bytes_in_words(sum(n_bytes.values()))} ({largest} "
            f"{bytes_in_words(n_bytes[largest])}), "
            f"and the file has {bytes_in_words(size)}. Get it again; or save tensors that "
            f"share no memory: torch.save(tensor.clone(), path)."
        )


def sizes_as_saved(asked: Mapping[str, tuple[int, int | None]], folder: object) -> None:
    """Sizes that a model's config.json asks for are those of its weights.

    No network is made before.
    """
    if wrong := [
        f"{name} is {wanted:,}, and the weights have {'none' if found is None else f'{found:,}'}"
        for name, (wanted, found) in asked.items()
        if wanted != found
    ]:
        raise ValueError(
            f"{folder} is damaged: its config.json does not fit its weights: "
            f"{'; '.join(wrong)}. Restore the folder from a copy, or save the model again."
        )


def checkpoint_kind(path: Path, *, finetuned: bool, expected: bool) -> None:
    """A pretrained network where one is expected, a fine-tuned one where that is."""
    if finetuned != expected:
        raise ValueError(
            f"{path} holds {_KINDS[finetuned]}; expected {_KINDS[expected]}. Read it with "
            f"{_DOORS[finetuned]}."
        )


def layout_problems(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], dispensable: Collection[str] = ()
) -> list[str]:
    """Say what is missing, too many, or of another shape."""
    if not set(expected) & set(found):
        return [
            (
                f"none of its tensors is scBERT's: expected {listed(expected, 3)} …, found "
                f"{listed(found, 3)}"
            )
        ]
    missing = [name for name in expected if name not in found and name not in dispensable]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name}: expected {_shape(shape)}, found {_shape(found[name])}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    named = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return [f"{what} ({len(names)}): {listed(names, 8)}" for what, names in named.items() if names]


def vocabulary_problems(n_genes: int, n_positions: int | None, *, replaceable: bool) -> list[str]:
    """Say whether the vocabulary names every position of a gene (None: any number will do)."""
    if n_positions is None or n_genes == n_positions - 1:
        return []
    remedy = "; or give gene2vec= for other genes" if replaceable else ""
    problem = (
        f"vocab has {n_genes} genes, and the checkpoint positions for {n_positions - 1} (and the "
        f"end token)"
    )
    return [f"{problem}: name all of them, in the order they were trained in{remedy}"]


def class_problems(classes: Sequence[str], n_classes: int | None) -> list[str]:
    """Say whether there is one name for every class."""
    unique(pd.Index(classes), "classes", "give every class its own name")
    if n_classes is None or len(classes) == n_classes:
        return []
    problem = (
        f"classes names {len(classes)} ({listed(classes)}), and the checkpoint has {n_classes}"
    )
    return [f"{problem}: name all of them, in the order they were trained in"]


def gene_vector_problems(vectors: pd.DataFrame, genes: pd.Index, width: int | None) -> list[str]:
    """Say which genes have no vector, and whether the vectors are as wide as the network."""
    if not isinstance(vectors, pd.DataFrame):
        raise TypeError(
            f"gene2vec must be a DataFrame genes x dimensions, indexed by gene name; found "
            f"{type(vectors).__name__}."
        )
    unique(vectors.index, "the gene names of gene2vec", "keep one row per gene")
    problems, missing = [], genes[~genes.isin(vectors.index)]
    if len(missing):
        problems.append(
            f"{len(missing)} of the {len(genes)} genes of vocab have no vector in gene2vec: "
            f"{listed(missing)}"
        )
    if width is not None and vectors.shape[1] != width:
        problems.append(
            f"gene2vec has {vectors.shape[1]} dimensions, and the checkpoint's network is "
            f"{width} wide"
        )
    values = vectors.loc[genes[genes.isin(vectors.index)]].apply(pd.to_numeric, errors="coerce")
    bad = values.index[~np.isfinite(values.to_numpy(float)).all(axis=1)]
    if len(bad):
        problems.append(
            f"gene2vec has values that are no finite numbers for {len(bad)} genes: {listed(bad)}"
        )
    return problems


def no_problems(what: str, problems: Iterable[str]) -> None:
    """Nothing was found wrong; else everything is said, a line each."""
    if problems := list(problems):
        raise ValueError(f"{what}:\n" + "\n".join(f"- {problem}." for problem in problems))


def fits_scbert(network: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    """Choices of a network that scBERT's layout has a place for."""
    unfit = [
        f"{name}={network[name]!r}" for name, value in published.items() if network[name] != value
    ]
    if unfit:
        raise ValueError(
            f"A checkpoint of scBERT cannot hold this network: {listed(unfit)}. Train one with "
            f"{', '.join(f'{name}={value!r}' for name, value in published.items())}, as "
            f'preset="scbert" does; '
            "or keep this one with .save(folder)."
        )


def _shape(shape: Shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
