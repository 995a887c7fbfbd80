"""Entries that the docstrings of several functions share, written once.

A docstring names one on a line of its own, ``%(copy)s``, or ``%(key tl.signature)s`` where the
entry leaves a word open, and :func:`shared` puts the whole text there when the function is defined.
So ``help()``, the documentation and the command line see ordinary docstrings.
"""

from __future__ import annotations

import inspect
import re
from textwrap import indent
from typing import Any, Final

_TEMPLATE: Final = re.compile(r"^( *)%\((\w+)(?: (.+))?\)s$", re.MULTILINE)

ENTRIES: Final = {
    "copy": "copy\n    Return a new object instead of writing to `adata`.",
    "batch_size": "batch_size\n    Cells at a time; affects speed and memory, not results.",
    "key_added": "key_added\n    Name of what is written.",
    "key_of_results": "key_added\n    Name of the results.",
    "counts_layer": (
        "layer\n    Layer with the raw counts; None means `adata.X`, "
        '``"raw"`` `adata.raw` (genes by name).'
    ),
    "adata_as_trained": "adata\n    Cells × genes with the layer the model was trained on.",
    "classifier": "model\n    A trained classifier.",
    "no_classifier": "TypeError\n    `model` is not a classifier.",
    "no_annbatch": (
        "ImportError\n    annbatch is not installed (``pip install 'scbert-cll[corpus]'``)."
    ),
    "training_cells": (
        "adata\n    All cells of the training donors, raw counts in ``X``.\n"
        "y\n    Class of each cell; missing where it is unlabelled.\n"
        "groups\n    Donor of each cell."
    ),
    "raw_cells": "adata\n    Cells with raw counts in ``X``; genes in any order.",
    "rng": "rng\n    Seed or generator. The same seed gives the same object.",
    "no_such_group": "KeyError\n    There is no such result or group.",
    "adata_after": "adata\n    Cells × genes after :func:`scbert_cll.{}`.",
    "key": "key\n    Name under which ``{}`` wrote.",
    "n_columns": "n_columns\n    Panels beside each other.",
    "figsize": "figsize\n    Width and height of the figure in inches.",
    "ax": "ax\n    Axes to draw in.",
    "ax_of_one": "ax\n    Axes to draw in; for one {}.",
    "drawn": "The axes, None if the figure is shown, or the figure.",
    "drawn_of_several": (
        "The axes (a list if there are several {}), None if the figure is shown, or the figure."
    ),
    "show": (
        "show\n    Whether to show the figure. By default as in scanpy.\n"
        "return_fig\n    Return the figure."
    ),
}


def shared[T: Any](documented: T) -> T:
    """The function or class, with whole entries in place of their names in its docstrings."""
    methods = vars(documented).values() if isinstance(documented, type) else ()
    for one in (documented, *filter(inspect.isfunction, methods)):
        one.__doc__ = expand(one.__doc__ or "") or None
    return documented


def expand(text: str) -> str:
    """A docstring with whole entries in place of their names."""
    return _TEMPLATE.sub(_entry, text)


def _entry(place: re.Match[str]) -> str:
    margin, name, word = place.groups()
    if name not in ENTRIES:
        raise KeyError(
            f"%({name})s is not a shared entry of docstrings; there are {list(ENTRIES)}."
        )
    if ("{}" in ENTRIES[name]) != (word is not None):
        takes = "one word" if word is None else "no words"
        raise ValueError(f"%({name})s takes {takes}.")
    return indent(ENTRIES[name].format(word), margin)
