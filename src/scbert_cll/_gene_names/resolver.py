"""Which gene of a vocabulary a name means: the one place where names of genes are compared.

A vocabulary is whatever names are looked for in: that of a model, or the genes of a data set in
which those of a signature are looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed
from scbert_cll._gene_names import species, table
from scbert_cll._gene_names.dates import look_like_dates

type How = Literal[
    "exact", "genome", "ensembl", "alias", "suffix", "ambiguous", "date", "unmatched"
]
type Approved = Mapping[str, frozenset[str]]  # of every name that a user's table knows
RENAMED: Final = ("genome", "ensembl", "alias", "suffix")

ENSEMBL: Final = re.compile(r"(ENS[A-Z]*G\d{6,})(?:\.\d+)?(_PAR_Y)?")
# of a symbol that several genes have, in files of CELLxGENE: MATR3_ENSG00000015479
_WITH_ID: Final = re.compile(r".+_(ENS[A-Z]*G\d{6,})")
_SUFFIX: Final = re.compile(r"^(.+)([-.])(\d+)$")


def resolve(
    names: Iterable[str],
    vocabulary: pd.Index,
    *,
    aliases: Approved | None = None,
    others: Iterable[str] = (),
) -> pd.DataFrame:
    """The gene of the vocabulary that every name stands for, and why.

    The rules, and their order, are those of :meth:`scbert_cll.vocab.GeneVocab.resolve`.
    """
    query = pd.Index([str(name) for name in names], dtype=object)
    plain = _without_genome(query, vocabulary)
    index = np.asarray(vocabulary.get_indexer(query), dtype=np.int64)
    how = np.where(index >= 0, "exact", "unmatched").astype(object)
    if len(rest := np.flatnonzero((index < 0) & (plain != ""))):
        rules = _Rules(vocabulary, plain, aliases or {}, [str(name) for name in others])
        for i in rest.tolist():
            how[i], index[i] = rules.find(plain[i])
        how[look_like_dates(list(query)) & (how == "unmatched")] = "date"
    gene = np.where(index >= 0, vocabulary.to_numpy()[index], "")
    return pd.DataFrame({"name": query, "gene": gene, "index": index, "how": how})


def places_of(genes: Iterable[str], names: pd.Index) -> np.ndarray:
    """Place among the names of a data set that each gene has; −1 where none or several may be it.

    `genes` are those of a signature, each once.
    """
    wanted = pd.Index([str(gene) for gene in genes], dtype=object)
    first = dict(zip(names[::-1], range(len(names) - 1, -1, -1), strict=True))
    places = np.array([first.get(gene, -1) for gene in wanted], dtype=np.int64)
    if (places < 0).any():
        resolved = resolve(names, wanted)
        unique = resolved[resolved["how"].isin(["genome", "ensembl", "alias"])]
        unique = unique[~unique["index"].duplicated(keep=False)]
        places[unique["index"].to_numpy()] = unique.index.to_numpy()
    return places


def in_data(genes: Iterable[str], names: pd.Index) -> list[str]:
    """What a data set calls genes of man, of the mouse, too; the given name where it has none."""
    wanted, present = list(genes), set(names)
    if present.issuperset(wanted):
        return wanted
    called = dict(zip(wanted, species.in_data(wanted, names), strict=True))
    absent = [gene for gene, name in called.items() if name not in present]
    places = places_of(absent, names)
    called |= {gene: str(names[at]) for gene, at in zip(absent, places, strict=True) if at >= 0}
    return [called[gene] for gene in wanted]


def gene_in_data(gene: str, names: pd.Index) -> str:
    """The same of one gene."""
    return in_data([gene], names)[0]


def known_in_data(genes: Iterable[str], names: pd.Index, where: str) -> list[str]:
    """The same of genes that must be there."""
    wanted = [str(gene) for gene in genes]
    called = in_data(wanted, names)
    absent = [gene for gene, name in zip(wanted, called, strict=True) if name not in names]
    if not absent:
        return called
    approved = table.shipped().approved
    several = [
        f"{gene!r} ({approved[gene].replace('|', ' or ')})"
        for gene in absent
        if "|" in approved.get(gene, "")
    ]
    shared = f" Several genes have been called {', '.join(several)}: name the one that is meant."
    raise KeyError(
        f"{listed(absent)} not in {where}, which has e.g. {listed(names, 3)}."
        f"{shared if several else ''}"
    )


def are_ensembl(names: Iterable[object]) -> np.ndarray:
    """Which names are Ensembl ids of genes, with or without a version."""
    return np.array([ENSEMBL.fullmatch(str(name)) is not None for name in names], dtype=bool)


def without_version(name: str) -> str:
    """An Ensembl id without its version; any other name as it is."""
    match = ENSEMBL.fullmatch(name)
    return match[1] + (match[2] or "") if match else name


def _without_genome(query: pd.Index, vocabulary: pd.Index) -> pd.Index:
    """Names without the genome before them; empty for genes of another species."""
    names = pd.Series(list(query), dtype=object)
    parts = names.str.extract(species.GENOME)
    gene = parts["gene"]
    human, mouse = (gene.where(parts[of].notna()) for of in ("human", "mouse"))
    is_mouse_id = mouse.str.startswith("ENSMUSG", na=False)
    mouse = mouse.where(~mouse.str.isupper().eq(True) | is_mouse_id)
    n_human, n_mouse = human.isin(vocabulary).sum(), mouse.isin(vocabulary).sum()
    genes = mouse if n_mouse > n_human or not human.notna().any() else human
    same = names.where(gene.isna() | query.isin(vocabulary), "")
    plain: pd.Index = pd.Index(genes.fillna(same), dtype=object)
    return plain


class _Rules:
    """What `resolve` needs to know about both sides, worked out once."""

    def __init__(
        self, vocabulary: pd.Index, query: pd.Index, aliases: Approved, others: list[str]
    ) -> None:
        self.vocabulary = vocabulary
        self.present = frozenset(query)
        self.taken = self.present | frozenset(others)
        self.aliases = aliases
        self.shipped = table.shipped().approved
        self.by_name = {str(name): i for i, name in enumerate(vocabulary)}
        places = self.by_name.items()
        self.by_id = _unique_positions((i, without_version(name)) for name, i in places)
        approved = ((i, self._approved(name)) for name, i in places)
        single = ((i, next(iter(names))) for i, names in approved if len(names) == 1)
        self.by_approved = _unique_positions(single)

    def find(self, name: str) -> tuple[How, int]:
        """Apply the rules to a name that is not in the vocabulary."""
        if name in self.by_name:
            return "genome", self.by_name[name]
        if with_id := _WITH_ID.fullmatch(name):
            name = with_id[1]
        if (at := self.by_id.get(without_version(name), -1)) >= 0:
            return "ensembl", at
        if name in self.aliases or without_version(name) in self.shipped:
            return self._by_approved(name)
        return self._by_suffix(name)

    def _by_approved(self, name: str) -> tuple[How, int]:
        names = self._approved(name)
        places = {self.by_approved[n] for n in names if n in self.by_approved}
        if not places:
            return "unmatched", -1
        if len(names) > 1 or -1 in places:
            return "ambiguous", -1
        (at,) = places
        gene = self.vocabulary[at]
        if not self.present.isdisjoint({gene, *names} - {name}):
            return "unmatched", -1  # the data have the gene itself, so this is another
        return "ensembl" if are_ensembl([name, gene]).any() else "alias", at

    def _by_suffix(self, name: str) -> tuple[How, int]:
        if not (match := _SUFFIX.match(name)) or _SUFFIX.match(match[1]):
            return "unmatched", -1
        base, mark, number = match[1], match[2], int(match[3])
        earlier = {base} | {f"{base}{mark}{k}" for k in range(1, min(number, 100))}
        if number < 1 or base not in self.by_name or not earlier <= self.taken:
            return "unmatched", -1
        return "suffix", self.by_name[base]

    def _approved(self, name: str) -> frozenset[str]:
        """The approved names of a gene: its own if no table has it, several if it is ambiguous.

        The user's table goes first, also with what the shipped one calls the gene.
        """
        if name in self.aliases:
            return self.aliases[name]
        symbols = self.shipped.get(without_version(name), name).split("|")
        return frozenset().union(*(self.aliases.get(s, {s}) for s in symbols))


def _unique_positions(names: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Position of every name, −1 for one that occurs more than once."""
    positions: dict[str, int] = {}
    for i, name in names:
        positions[name] = -1 if name in positions else i
    return positions
