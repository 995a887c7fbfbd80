"""Every check of a user's input, and the sentence that goes with it.

A check never changes what it looks at. It returns what the caller needs next (a column, a matrix), or raises with what
was expected, what was found, the offenders by name and the remedy.
"""

from __future__ import annotations

from scbert_cll._checks._anndata import (
    anndata,
    cells,
    classes,
    groups,
    labels,
    no_empty_cells,
    obs_column,
    one_group_per_cell,
    split,
    target,
    weights,
)
from scbert_cll._checks._checkpoint import (
    checkpoint_file,
    checkpoint_kind,
    class_problems,
    fits_scbert,
    gene_vector_problems,
    layout_problems,
    new_file,
    no_problems,
    state_dict,
    unreadable,
    vocabulary_problems,
)
from scbert_cll._checks._estimators import is_classifier, labelled, one_per_cell, space, takes_weights, weight_per_cell
from scbert_cll._checks._genes import (
    enough_matched,
    gene_names,
    known_genes,
    model_genes,
    places_in_model,
    two_columns,
    vocabulary_coverage,
)
from scbert_cll._checks._matrix import are_whole, counts, first, matrix
from scbert_cll._checks._tokens import (
    edges_of_genes,
    is_binned,
    not_binned,
    other_key,
    same_binning,
    same_or_default,
    tokens,
    tokens_in_every_cell,
)
from scbert_cll._checks._words import at_least, choice, is_model, key_in, listed, number_in, share, unique

__all__ = [
    "anndata",
    "are_whole",
    "at_least",
    "cells",
    "checkpoint_file",
    "checkpoint_kind",
    "choice",
    "class_problems",
    "classes",
    "counts",
    "edges_of_genes",
    "enough_matched",
    "first",
    "fits_scbert",
    "gene_names",
    "gene_vector_problems",
    "groups",
    "is_binned",
    "is_classifier",
    "is_model",
    "key_in",
    "known_genes",
    "labelled",
    "labels",
    "layout_problems",
    "listed",
    "matrix",
    "model_genes",
    "new_file",
    "no_empty_cells",
    "no_problems",
    "not_binned",
    "number_in",
    "obs_column",
    "one_group_per_cell",
    "one_per_cell",
    "other_key",
    "places_in_model",
    "same_binning",
    "same_or_default",
    "share",
    "space",
    "split",
    "state_dict",
    "takes_weights",
    "target",
    "tokens",
    "tokens_in_every_cell",
    "two_columns",
    "unique",
    "unreadable",
    "vocabulary_coverage",
    "vocabulary_problems",
    "weight_per_cell",
    "weights",
]
