"""Species that genes are of, by how their names are written: never guessed where names disagree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

import pandas as pd

type Species = Literal["human", "mouse"]

# What Cell Ranger, Seurat and others put before names where there is more than one genome:
# GRCh38_ITGA4, mm10___Itga4, hg38-ITGA4.
GENOME: Final = re.compile(
    r"^(?:(?P<human>GRCh3[78]|hg1[89]|hg38|b37|T2T|CHM13(?:v2)?)|"
    r"(?P<mouse>GRCm3[89]|mm9|mm10|mm39))"
    r"(?:[-_]20\d\d[-_][A-Z])?[-_.]+(?P<gene>.+)$",
    re.I,
)
# Of neither: what both have, C3 and accessions of clones (AC149090.1).
_ACCESSION: Final = r"[A-Z]{1,4}\d{5,8}(?:\.\d+)?"
_HUMAN: Final = (
    r"C(?:\d+|X|Y)orf\d+.*|(?!ENS[A-Z]+G\d)(?=(?:.*[A-Z]){2})[A-Z][A-Z0-9]+(?:[-._][A-Z0-9]+)*"
)
_MOUSE: Final = r"ENSMUSG\d{11}.*|[A-Z]\d*[a-z].*|(?:mt|H2)-[A-Z].*|[A-Z]?\d+[A-Z]\d\dRik"
_ALIKE: Final = 0.9  # of the names that tell


def without_genome(names: Iterable[object]) -> pd.Series:
    """Names without the genome before them."""
    plain = pd.Series([str(name) for name in names], dtype=object)
    return plain.str.extract(GENOME)["gene"].fillna(plain).astype(object)


def species_of(names: Iterable[object]) -> Species | None:
    """Whose symbols or Ensembl ids nine in ten names are that tell; None where it is unclear.

    Symbols of man are in capitals, as those of other primates are, and those of the mouse begin
    with one, as those of the rat do.
    """
    plain = without_genome(names)
    is_human = plain.str.fullmatch(_HUMAN) & ~plain.str.fullmatch(_ACCESSION)
    n_human = int(is_human.sum())
    n_mouse = int((plain.str.fullmatch(_MOUSE) & ~is_human).sum())
    if n_human == n_mouse or max(n_human, n_mouse) < _ALIKE * (n_human + n_mouse):
        return None
    return "human" if n_human > n_mouse else "mouse"


def in_data(genes: Iterable[str], names: Iterable[object]) -> list[str]:
    """What genes of man are called in a data set: the given name where there is no such gene.

    With a genome before it (``GRCh38_ITGA4``); among genes of the mouse as these are written
    (``Itga4``). A name that several genes could have is none.
    """
    plain = without_genome(names).set_axis(list(map(str, names)))
    places = [plain]
    if species_of(plain) == "mouse":
        places.append(plain.str.upper())
    by_name: dict[str, str] = {}
    for place in reversed(places):
        single = place[~place.duplicated(keep=False)]
        by_name |= dict(zip(single, single.index, strict=True))
    whole = set(plain.index)
    return [gene if gene in whole else by_name.get(gene, gene) for gene in genes]
