"""A checkpoint of scBERT: read without running anything in it, and checked all at once."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mode
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scbert_cll._checks.files import FilePath, plain_file
from scbert_cll._checks.words import bytes_in_words, listed, unique
from scbert_cll.model._tensors import not_finite
from scbert_cll.model.exchange import scbert_layout
from scbert_cll.model.exchange.scbert_layout import COUNTER, GENES, Tensors
from scbert_cll.nn import Config

_KINDS: Final = {
    False: "a pretrained network, without classes",
    True: "a network fine-tuned to name classes",
}
_DOORS: Final = {
    False: "ScBERT.from_scbert_checkpoint(path, vocab=…), and "
    "ScBERTClassifier.from_pretrained(model, adata, labels_key=…) to train a classifier from it",
    True: "ScBERTClassifier.from_scbert_checkpoint(path, vocab=…, classes=…)",
}
_IN_ORDER: Final = "name all of them, in the order they were trained in"


class Checkpoint:
    """The tensors of a file, the places they should have, and the sizes most of them agree on.

    Only weights are read (``weights_only=True``): nothing in the file is executed.
    """

    def __init__(self, path: FilePath) -> None:
        self.path = Path(path)
        self.tensors = _read(self.path)
        names, heads = list(self.tensors), ("to_out.conv", "to_out.fc")
        self.finetuned = any(name.startswith(heads) for name in names)
        self.gene_vectors = GENES.theirs in names
        layers = (re.match(r"performer\.net\.layers\.(\d+)\.", name) for name in names)
        self.n_layers = len({layer[1] for layer in layers if layer}) or 1
        kind = {"gene_vectors": self.gene_vectors, "classes": self.finetuned}
        self.places = scbert_layout.layout(self.n_layers, **kind)
        # by majority: one odd tensor is then the one that is named
        counts: dict[str, list[int]] = {}
        for place in self.places:
            shape = getattr(self.tensors.get(place.theirs), "shape", ())
            if len(shape) == len(place.shape):
                for name, size in zip(place.shape, shape, strict=True):
                    counts.setdefault(str(name), []).append(size)
        self.sizes = {name: mode(counts[name]) for name in counts}

    def _problems(self) -> Iterator[str]:
        """Everything about the tensors that does not fit, a sentence each."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        expected: dict[str, tuple[Any, ...]] = {
            place.theirs: tuple(self.sizes.get(str(size), size) for size in place.shape)
            for place in self.places
        }
        if not expected.keys() & shapes.keys():
            some = f"expected {listed(expected, 3)} …, found {listed(shapes, 3)}"
            yield f"none of its tensors is scBERT's: {some}"
            return
        present = {*shapes, COUNTER}  # the counter may be absent
        names = {
            "missing": [name for name in expected if name not in present],
            "unexpected": [name for name in shapes if name not in expected],
            "of another shape": [
                f"{name}: expected {_shape(shape)}, found {_shape(shapes[name])}"
                for name, shape in expected.items()
                if name in shapes and shapes[name] != shape
            ],
        }
        for what, some_names in names.items():
            if some_names:
                yield f"{what} ({len(some_names)}): {listed(some_names, 8)}"
        if not any(names.values()):
            yield from self._odd_values()

    def _odd_values(self) -> Iterator[str]:
        """Tensors of the right shape that still make no network."""
        sizes = self.sizes
        if sizes["tokens"] < 3:
            yield (
                f"token_emb.weight has {sizes['tokens']} rows, expected at least 3: not expressed, "
                f"a bin and the mask"
            )
        for large, small in (("inner", "dim_head"), ("units", "width")):
            if not sizes[large] * sizes[small] or sizes[large] % sizes[small]:
                yield f"{large} ({sizes[large]}) is not a multiple of {small} ({sizes[small]})"
        if bad := not_finite(self.tensors):
            yield f"non-finite values in {listed(bad)}"

    def config(self, n_genes: int) -> Config:
        """Dimensions of the network; of the genes the file has the positions at most."""
        sizes = self.sizes
        return Config(
            n_genes=n_genes,
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
        expected = classes is not None
        if self.finetuned != expected:
            raise ValueError(
                f"{self.path} holds {_KINDS[self.finetuned]}; expected {_KINDS[expected]}. Read it "
                f"with {_DOORS[self.finetuned]}."
            )
        problems, n_positions = list(self._problems()), self.sizes.get("positions")
        is_fixed = self.finetuned or (self.gene_vectors and gene2vec is None)
        if is_fixed and n_positions is not None and len(genes) != n_positions - 1:
            remedy = "" if self.finetuned else "; or give gene2vec= for other genes"
            problems.append(
                f"vocab has {len(genes)} genes, and the checkpoint positions for {n_positions - 1} "
                f"(and the end token): {_IN_ORDER}{remedy}"
            )
        if classes is not None:
            unique(pd.Index(classes), "classes", "give every class its own name")
            n_classes = self.sizes.get("classes", len(classes))
            if len(classes) != n_classes:
                problems.append(
                    f"classes names {len(classes)} ({listed(classes)}), and the checkpoint has "
                    f"{n_classes}: {_IN_ORDER}"
                )
        if gene2vec is not None:
            problems += self._problems_of(gene2vec, genes)
        if problems:
            lines = "\n".join(f"- {problem}." for problem in problems)
            raise ValueError(f"{self.path} does not fit:\n{lines}")

    def _problems_of(self, vectors: pd.DataFrame, genes: pd.Index) -> Iterator[str]:
        """Genes without a vector, and vectors that do not fit the network."""
        if not isinstance(vectors, pd.DataFrame):
            raise TypeError(
                f"gene2vec must be a DataFrame genes x dimensions, indexed by gene name; found "
                f"{type(vectors).__name__}."
            )
        unique(vectors.index, "the gene names of gene2vec", "keep one row per gene")
        has_vector, n = genes.isin(vectors.index), vectors.shape[1]
        if len(missing := genes[~has_vector]):
            yield (
                f"{len(missing)} of the {len(genes)} genes of vocab have no vector in gene2vec: "
                f"{listed(missing)}"
            )
        if n != (width := self.sizes.get("width", n)):
            yield f"gene2vec has {n} dimensions, and the checkpoint's network is {width} wide"
        values = vectors.loc[genes[has_vector]].apply(pd.to_numeric, errors="coerce")
        bad = values.index[~np.isfinite(values.to_numpy(float)).all(axis=1)]
        if len(bad):
            yield f"gene2vec has non-finite values for {len(bad)} genes: {listed(bad)}"
        if not self.gene_vectors:
            yield "gene2vec is given, and the checkpoint's network does without gene vectors"

    def weights(self, genes: pd.Index, gene2vec: pd.DataFrame | None) -> Tensors:
        """Our weights.

        With `gene2vec` its vectors take the place of the stored ones, and the end token keeps its
        own.
        """
        weights = scbert_layout.to_ours(self.tensors, self.places)
        if gene2vec is not None:
            values = gene2vec.loc[genes].to_numpy(np.float32, copy=True)
            vectors = torch.from_numpy(values)
            weights[GENES.ours] = torch.cat([vectors, weights[GENES.ours][-1:]])
        return weights


def _shape(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _read(path: Path) -> Tensors:
    """The tensors of a file by name."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, and a checkpoint of scBERT is one file. A model folder of this "
            f"package is read with .load(folder)."
        )
    plain_file(path, "checkpoint")
    _refuse_compressed(path)
    # of pickles that are refused anyway, torch warns
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        is_pickle = file.read(1) == b"\x80"
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(path, error, is_pickle=is_pickle) from error
    is_mapping = isinstance(content, Mapping)
    tensors = content.get("model_state_dict", content) if is_mapping else content
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(
            f"{path} holds a {type(tensors).__name__}; a checkpoint of scBERT holds a dict with "
            f"tensors by name, as 'model_state_dict'."
        )
    if other := [name for name in tensors if not isinstance(tensors[name], Tensor)]:
        raise ValueError(
            f"{path} is no checkpoint of scBERT: expected a tensor for every name, found something "
            f"else for {listed(other)}."
        )
    _refuse_larger_than_the_file(tensors, path)
    return {str(name): tensor for name, tensor in tensors.items()}


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip archive of compressed members, which torch does not write.

    Members that are not compressed are never larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # whoever reads it says what is wrong
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > size:
        raise ValueError(
            f"{path} holds {bytes_in_words(unpacked)} in {bytes_in_words(size)}: its members are "
            "compressed. Write it again with torch.save, which does not compress."
        )


def _unreadable(path: Path, error: Exception, *, is_pickle: bool) -> ValueError:
    """Why a file was not read: it holds more than weights, or something else altogether."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if not named and not is_pickle:
        return ValueError(
            f"{path} is not a checkpoint, or it is damaged; expected a file that torch.save wrote."
        )
    return ValueError(
        f"{path} holds {named[1] if named else 'pickled Python objects'}, no weights alone: to "
        f"read it, code that it names would have to be run, so it was refused. Where you trust it, "
        f'save its weights alone: torch.save({{"model_state_dict": model.state_dict()}}, path).'
    )


def _refuse_larger_than_the_file(tensors: Mapping[Any, Tensor], path: Path) -> None:
    """One number may be said to be a tensor of any shape."""
    n_bytes = {name: one.numel() * one.element_size() for name, one in tensors.items()}
    total, size = sum(n_bytes.values()), path.stat().st_size
    if total > size:
        largest = max(n_bytes, key=lambda name: n_bytes[name])
        raise ValueError(
            f"{path} is damaged: its tensors are said to hold {bytes_in_words(total)} ({largest} "
            f"{bytes_in_words(n_bytes[largest])}), and the file has {bytes_in_words(size)}. Get it "
            f"again; or save tensors that share no memory: torch.save(tensor.clone(), path)."
        )
