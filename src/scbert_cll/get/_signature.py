"""get.signature: the genes of a signature, each with its evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pandas as pd
from anndata import AnnData

from scbert_cll import _docs, _keys, _record
from scbert_cll._checks.words import at_least, choice
from scbert_cll._signature.families import FAMILIES

_COLUMNS: Final = (
    "gene", "sign", "selected", "log2_fc", "error", "low", "high", "t", "p", "q", "coefficient",
    "agrees", "n_same_sign", "n_left_out", "abundance", "detected", "family",
)  # fmt: skip


@_docs.shared
def signature(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE,
    selected: bool = True,
    drop_families: bool | str | Iterable[str] = False,
    n_top: int | None = None,
) -> pd.DataFrame:
    """Genes of a signature, the clearest first.

    Parameters
    ----------
    %(adata_after tl.signature)s
    key
        Name under which it wrote.
    selected
        Only the genes of the signature; ``False`` lists all genes that were tested.
    drop_families
        Leave out genes that differ between donors or cells whatever is asked: a family or families
        (``"immunoglobulin"``, ``"HLA"``, ``"sex"``, ``"mitochondrial"``, ``"ribosomal"``,
        ``"marker"``), or ``True`` for all of them.
    n_top
        Number of genes. By default all.

    Returns
    -------
    A copy of the rows of ``adata.uns[key]["genes"]``, see :func:`scbert_cll.tl.signature` for its
    columns; without rows if the signature is empty, for the reason in ``adata.uns[key]["reason"]``.

    Raises
    ------
    KeyError
        There is no such result or family.
    ValueError
        `n_top` is less than 1.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_genes=100, rng=0)
    >>> sc_cll.tl.signature(adata, groupby="label")
    >>> sc_cll.get.signature(adata, n_top=2)[["gene", "sign", "selected"]]
           gene  sign  selected
    0  GENE0062     1      True
    1  GENE0090     1      True
    """
    table: pd.DataFrame = _record.read(adata, key, "tl.signature", ["genes"])["genes"]
    if n_top is not None:
        at_least(n_top, 1, "n_top")
    if table.empty:
        return pd.DataFrame(columns=list(_COLUMNS))
    if selected:
        table = table[table["selected"]]
    table = table[~_in_family(table["family"], drop_families)]
    return table.head(n_top or len(table)).reset_index(drop=True)


def _in_family(family: pd.Series[str], dropped: bool | str | Iterable[str]) -> pd.Series[bool]:
    """Rows to leave out."""
    if isinstance(dropped, bool):
        return (family != "") & dropped
    names = [dropped] if isinstance(dropped, str) else list(dropped)
    for name in names:
        choice(name, FAMILIES, "drop_families")
    return family.isin(names)
