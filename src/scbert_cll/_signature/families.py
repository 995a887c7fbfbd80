"""Genes that tell donors, clones, sexes or stressed cells apart whatever is asked."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._gene_names import table
from scbert_cll._gene_names.resolver import are_ensembl, without_version
from scbert_cll._gene_names.species import without_genome

# Of a gene's symbol, as it is written in man and in the mouse or rat; the first that fits.
_FAMILIES: Final = {
    "immunoglobulin": (
        r"^IG[HKL][VDJ]|^IGKC$|^IGLC\d|^IGLL[15]$|^IGH(M|E|G[1-4P]|A[12]|EP\d)$|^JCHAIN$",
        r"^Ig[hkl][vdj]|^Igkc$|^Iglc\d|^Igll1$|^Igh(m|e|a|g[123]?[abc]?)$|^Jchain$",
    ),
    "HLA": (r"^HLA[-.]", r"^(H2|RT1)[-.]"),
    "sex": (
        (
            r"^(XIST|TSIX|RPS4Y[12]|DDX3Y|UTY|KDM5D|EIF1AY|USP9Y|ZFY|NLGN4Y|TMSB4Y|PRKY|SRY|TXLNGY|"
            r"TTTY\d+)$"
        ),
        r"^(Xist|Tsix|Ddx3y|Uty|Kdm5d|Eif2s3y|Usp9y|Zfy[12]|Uba1y|Rbmy|Sry|Ssty[12])$",
    ),
    "mitochondrial": (r"^MT[-.]", r"^[mM]t[-.]"),
    "ribosomal": (
        r"^RP[LS]\d+[ALXY]?\d*(L\d*)?$|^RPL?P[012]$|^RPSA$",
        r"^Rp[ls]\d+[alxy]?\d*(l\d*|rt)?(-ps\d*)?$|^Rplp[012]$|^Rpsa$",
    ),
}
FAMILIES = (*_FAMILIES, "marker")


def family(genes: pd.Index, marker: str | None) -> np.ndarray:
    """Family of each gene that a signature should be read without, the marker's gene, or ""."""
    names = without_genome(genes)
    if (is_id := are_ensembl(names)).any():  # of man: the symbol
        symbols = table.shipped().approved
        names[is_id] = [symbols.get(without_version(name), name) for name in names[is_id]]
    families = pd.Series("", index=names.index)
    for name, patterns in _FAMILIES.items():
        is_member = names.str.contains("|".join(patterns).replace("(", "(?:"))
        families = families.where((families != "") | ~is_member, name)
    if marker is not None:
        families = families.mask(np.asarray(genes == marker), "marker")
    return families.to_numpy(dtype=object)
