"""Genes that tell donors, clones, sexes or stressed cells apart whatever is asked."""

from __future__ import annotations

import numpy as np
import pandas as pd

# of a gene's symbol; the first that fits
_FAMILIES = {
    "immunoglobulin": (
        r"^IG[HKL][VDJ]|^IGKC$|^IGLC\d|^IGLL[15]$|^IGH(M|E|G[1-4P]|A[12]|EP\d)$|^JCHAIN$"
    ),
    "HLA": r"^HLA-",
    "sex": (
        r"^(XIST|TSIX|RPS4Y[12]|DDX3Y|UTY|KDM5D|EIF1AY|USP9Y|ZFY|NLGN4Y|TMSB4Y|PRKY|SRY|TXLNGY|"
        r"TTTY\d+)$"
    ),
    "mitochondrial": r"^MT-",
    "ribosomal": r"^RP[LS]\d+[ALXY]?\d*(L\d*)?$|^RPL?P[012]$|^RPSA$",
}
FAMILIES = (*_FAMILIES, "marker")


def family(genes: pd.Index, marker: str | None) -> np.ndarray:
    """Family of each gene that a signature should be read without, the marker's gene, or ""."""
    names = pd.Series(genes.astype(str))
    families = pd.Series("", index=names.index)
    for name, pattern in _FAMILIES.items():
        is_member = names.str.contains(pattern.replace("(", "(?:"))
        families = families.where((families != "") | ~is_member, name)
    if marker is not None:
        families = families.where(names != marker, "marker")
    return families.to_numpy(dtype=object)
