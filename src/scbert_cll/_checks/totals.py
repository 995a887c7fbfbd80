"""Checks of which genes the totals are of that tokens were cut from."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from scbert_cll._checks.words import listed

# numbers of genes that differ by less make much the same totals; where their names are not known
_ABOUT: Final = 0.1
_MANY_HIDDEN: Final = 0.05  # of the genes of a total


def of(genes: pd.Index) -> dict[str, Any]:
    """What is recorded of the genes whose counts make a cell's total: how many, and a checksum of their names in any order."""
    names = "\n".join(sorted(str(gene) for gene in genes))
    return {"n_genes": len(genes), "genes_digest": hashlib.sha256(names.encode()).hexdigest()[:16]}


def same(
    found: Mapping[str, Any],
    names: pd.Index,
    expected: Mapping[str, Any],
    genes: pd.Index,
    hidden: Sequence[str],
    where: str,
    *,
    is_corpus: bool = False,
) -> None:
    """Tokens cut from totals of the genes that the model's are of: a cell's tokens depend on which genes make its total.

    `found` and `expected` are parameters of :func:`~scbert_cll.pp.bin_expression`. `names` are the
    genes of the cells, `genes` those of the model and `hidden` those it was not shown; they name
    the genes of a total where their checksum is the recorded one. Cells that lack some of these are
    right: an absent gene counts nothing.
    """
    if "genes_digest" not in found or "genes_digest" not in expected:
        who = where if "genes_digest" not in found else "the model"
        warnings.warn(
            f"{who} does not say of which genes the totals were that its tokens were cut from "
            f"(an older version made it), so it is "
            "not known whether they fit. Make sure that both were binned with the same genes.",
            stacklevel=3,
        )
        return
    if found["genes_digest"] == expected["genes_digest"]:
        return
    whole = genes.append(pd.Index(list(hidden)).difference(genes))
    ours, theirs = int(found["n_genes"]), int(expected["n_genes"])
    are_named = [
        of(n)["genes_digest"] == p["genes_digest"] for n, p in ((names, found), (whole, expected))
    ]
    if all(are_named):
        others = names[~names.isin(whole)]
        if not len(others):
            _warn_of_hidden([gene for gene in hidden if gene not in names], len(whole), where)
            return
        why = f", {len(others)} of them not among the model's: {listed(others, 3)}"
    elif abs(ours - theirs) <= _ABOUT * theirs:
        warnings.warn(
            f"{where} was binned with {ours:,} genes and the model's training data with "
            f"{theirs:,} others, which are not all known by name. "
            "Their totals are taken to be alike.",
            stacklevel=3,
        )
        return
    else:
        why = ""
    raise ValueError(
        f"{where} was cut from totals of {ours:,} genes{why}; the model's training data from "
        f"totals of {theirs:,} genes. The same cell gets other "
        f"tokens. {_bin_anew(hidden, is_named=are_named[1], n=theirs, is_corpus=is_corpus)}"
    )


def _warn_of_hidden(absent: Sequence[str], n: int, where: str) -> None:
    """Genes that a model is not shown are in its totals, and easily forgotten when genes are aligned."""
    if len(absent) > _MANY_HIDDEN * n:
        warnings.warn(
            f"The model's totals hold {len(absent)} genes that it is not shown "
            f"({listed(absent, 3)}), and {where} was binned without them. If they "
            "were measured, align to these, too: pp.align_genes(adata, [*model.genes, "
            "*model.registry['setup_args']['exclude_genes']]).",
            stacklevel=4,
        )


def _bin_anew(hidden: Sequence[str], *, is_named: bool, n: int, is_corpus: bool) -> str:
    """How cells get the model's totals."""
    if not is_named:
        return (
            f"Bin the cells with all {n:,} genes or so that the model's were binned with, before "
            f"genes are chosen."
        )
    genes = (
        f"[*model.genes, {', '.join(map(repr, hidden))}]" if len(hidden) else "list(model.genes)"
    )
    if is_corpus:
        return (
            f"Build a corpus of the model's genes: pp.build_corpus(…, vocab={genes}, "
            f"edges=model.binning)."
        )
    return (
        f"Bring the counts to the model's genes and bin them again: adata = "
        f"pp.align_genes(adata, {genes}); "
        "pp.bin_expression(adata, edges=model.binning)."
    )
