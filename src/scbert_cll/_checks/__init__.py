"""Every check of a user's input, and the sentence that goes with it.

A check never changes what it looks at. It returns what the caller needs next (a column, a matrix),
or raises with what was expected, what was found, the offenders by name and the remedy.
"""

from scbert_cll._checks import (
    adata,
    cohorts,
    counts,
    donors,
    features,
    genes,
    manifests,
    matrix,
    paths,
    people,
    slots,
    tables,
    text,
    tokens,
    totals,
    words,
)

__all__ = [
    "adata",
    "cohorts",
    "counts",
    "donors",
    "features",
    "genes",
    "manifests",
    "matrix",
    "paths",
    "people",
    "slots",
    "tables",
    "text",
    "tokens",
    "totals",
    "words",
]
