"""Which of a panel's names mean a marker: it is a word of the name, and digits stay together.

Names carry prefixes and suffixes of vendors and pipelines, clones, barcodes and codes around the
target (``CD49d-CCATTCAACTTCCGG``, ``CD49d|ITGA4|AHS0063|pAbO``, ``C0576_anti-human_CD49d``). There
is no list of these to take off: the CD numbers of a name are read, and any other target (HLA-DR,
TIGIT) is looked for as words.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

# CD number and gene where one gene makes the target, by HGNC
_TABLE: Final = Path(__file__).with_name("cd_genes.csv").read_text("utf-8").splitlines()
_GENES: Final = dict(line.split(",") for line in _TABLE if line[0].isdigit())
# CD3 is a complex; its antibodies are also named after one of the chains.
_CHAINS: Final = {"cd3": frozenset({"cd3d", "cd3e", "cd3g"})}
# Letters that make another target of a number (HGNC and the HLDA workshops), so that "CD45-RA" is
# CD45RA and "CD19-A" CD19.
_LETTERS: Final = {
    str(number): letters
    for letters, numbers in {
        "ab": (8, 16, 79, 107, 120, 121, 140, 167, 179, 210, 218, 235),
        "abc": (32, 60, 64, 156),
        "abcd": (11, 42),
        "abcde": (1, 307),
        "abcdef": (49, 66, 300),
        "abcdefghijklm": (85,),
        "abcdefghijkz": (158,),
        "abg": (172,),
        "ac": (159, 203),
        "b": (202,),
        "d": (240,),
        "deg": (3,),
        "elp": (62,),
        "s": (65, 75, 175),
    }.items()
    for number in numbers
}

_GREEK: Final = str.maketrans("αβγδεζκλμ", "abgdezklm")
_SPELLED: Final = re.compile(
    r"(?<![a-z])(?:alpha|beta|gamma|delta|epsilon|zeta|kappa|lambda)(?![a-z])"
)
_GLUED: Final = re.compile(
    r"(?<![a-z0-9])(?:anti|adt|prot|ab|human|hum|hu|hs|h|a|mouse|mus|ms|mu|m)(?=cd[^a-z0-9]?\d)"
    r"|(?<=[a-z0-9])(?=(?:totalseq|total[a-d]|adt|prot|protein|antibody)(?![e-z]))"
)
_CD: Final = re.compile(
    r"\bcd-?(?P<number>\d+)(?P<letters>[a-z]{0,2}\d?)\b"
    r"(?:-(?P<apart>r[abco]?|[a-z])\b|[-/](?P<partner>ligand|lg|receptor)\b"
    r"|(?P<more>(?:/(?:[a-h]\d?|\d{2,3})\b)+))?"
)
_MOUSE: Final = re.compile(
    r"\b(?:mouse|murine|mus|mm10|rat|hamster|(?:ms|mu|mmu?|m)(?=-cd))\b|^ms\b"
)
_MOUSE_ALLELE: Final = re.compile(r"cd(?:45|90)\.[12]\b")
_HUMAN: Final = re.compile(r"\b(?:human|hum|hu|hs|homo|hg38|grch38|h(?=-cd))\b")
_ISOTYPE: Final = re.compile(
    r"\b(?:(?:mouse|rat|hamster|rabbit|goat|ms|m|r)-?)ig[gmade]\w*(?:[-/][kl]\b)?|\w*isotyp\w*"
)
_NO_TARGET: Final = re.compile(
    r"\b(?:control|ctrl|ctl|iso|isoig\w*|hashtag\d*|hto\d*|cmo\d*|sampletag\d*"
    r"|\w*(?:tetra|dextra|penta|multi)mer|car|scfv)\b"
)


@dataclass(frozen=True)
class Name:
    """A name of a panel, or the marker that is looked for."""

    given: str

    @cached_property
    def full(self) -> str:
        """Lower-case words of ASCII joined by `-`, or by `/` in a list."""
        text = unicodedata.normalize("NFKC", self.given).lower().translate(_GREEK)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = _SPELLED.sub(lambda word: word[0][0], text)
        text = _GLUED.sub(lambda glued: f"{glued[0]}-", text)
        text = re.sub(r"[^a-z0-9]*[/,&+][^a-z0-9]*", "/", text)
        return re.sub(r"[^a-z0-9/]+", "-", text).strip("-/")

    @cached_property
    def text(self) -> str:
        """The same without the isotype of the antibody itself."""
        return re.sub(r"[-/]{2,}", "-", _ISOTYPE.sub("", self.full)).strip("-/")

    @cached_property
    def targets(self) -> frozenset[str]:
        """The CD numbers of the name, lists written out: `CD66a/c` is CD66a and CD66c."""
        numbers = map(_targets, _CD.finditer(self.text))
        return frozenset(target for targets in numbers for target in targets)

    @cached_property
    def only_target(self) -> str | None:
        """The CD number, where the name is one and nothing else."""
        is_number = _CD.fullmatch(self.full) and len(self.targets) == 1
        return next(iter(self.targets)) if is_number else None

    @cached_property
    def is_marker(self) -> bool:
        """Neither an isotype control nor a reagent against what carries the marker's name."""
        return bool(self.text) and not _NO_TARGET.search(self.text)

    @cached_property
    def is_mouse(self) -> bool:
        """An antibody against the mouse's protein alone."""
        of_mouse = _MOUSE.search(self.text) or _MOUSE_ALLELE.search(self.given.lower())
        return bool(of_mouse) and not _HUMAN.search(self.text)


_read: Final = lru_cache(maxsize=4096)(Name)


def positions(names: Sequence[str], marker: str) -> list[int]:
    """Where the marker is: by its exact name, else as a word, else by gene or CD number."""
    if exact := [i for i, name in enumerate(names) if name == marker]:
        return exact
    wanted, panel = _read(marker), [_read(name) for name in names]
    of_mouse = sum(name.is_mouse for name in panel) > len(panel) / 2
    panel = [name if of_mouse or not name.is_mouse else Name("") for name in panel]
    targets = {i: name for i, name in enumerate(panel) if name.is_marker}
    # nothing but case and separators differs
    same = [i for i, name in targets.items() if wanted.full == name.full]
    if wanted.full and same:
        return same
    for means in (_has_word, _has_synonym):
        if meant := [i for i, name in targets.items() if means(wanted, name)]:
            # with CD14-1 there, CD141_Thrombomodulin is a question: it would be the same if
            # separators were dropped
            glued = _glued(wanted)
            alike = [i for i, name in targets.items() if _glued(name) == glued]
            return [*meant, *(i for i in alike if i not in meant)]
    return []


def closest_first(names: Sequence[str], marker: str) -> list[str]:
    """Names that hold the marker in any way, those of its number, and others by likeness."""
    wanted = _read(marker)
    numbers = set(map(_number, wanted.targets))

    def distance(given: str) -> tuple[bool, bool, float]:
        name = _read(given)
        is_one = wanted.targets & name.targets or _holds(wanted, name)
        holds = bool(is_one) or _has_synonym(wanted, name)
        near = bool(numbers.intersection(map(_number, name.targets)))
        ratio = difflib.SequenceMatcher(None, wanted.full, name.full).ratio()
        return not holds, not near, -ratio

    return sorted(names, key=distance)


def _glued(name: Name) -> str:
    return re.sub(r"[-/]", "", name.full)


def _has_word(wanted: Name, name: Name) -> bool:
    """Whether the marker is the one target of the name."""
    if (target := wanted.only_target) is not None:
        others = name.targets
        return target in others and all(_kin(target, other) for other in others)
    if re.match(r"ig[gmade]", wanted.full) and (name.targets or "isotyp" in name.full):
        return False  # it is the isotype of the antibody
    return _holds(wanted, name)


def _has_synonym(wanted: Name, name: Name) -> bool:
    """Whether the name holds the gene of the CD number, or the reverse, and no other target."""
    target = wanted.only_target
    gene = wanted.given.upper() if target is None else _gene(target)
    if name.targets:
        same = _numbers_of(gene) if gene else frozenset()
        if target is not None:
            same |= _CHAINS.get(target, frozenset())
            same |= _read(gene).targets if gene else frozenset()
        return name.targets <= same
    return target is not None and gene is not None and _holds(_read(gene), name)


def _gene(target: str) -> str | None:
    return _GENES.get(target.removeprefix("cd"))


@lru_cache(maxsize=1024)
def _numbers_of(gene: str) -> frozenset[str]:
    return frozenset(f"cd{number}" for number in _GENES if _GENES[number] == gene)


def _holds(wanted: Name, name: Name) -> bool:
    """Whether the marker is among the words of the name, however these are separated."""
    return bool(wanted.full) and _pattern(wanted.full).search(name.text) is not None


@lru_cache(maxsize=1024)
def _pattern(full: str) -> re.Pattern[str]:
    """Words with or without separators; digits stay together and apart as they are.

    Not in front of what would make another target of them (Fas-L, ICOS ligand).
    """
    joined = re.sub(r"(?<=[a-z])[-/]|[-/](?=[a-z])", "", full)  # digits stay apart
    words = re.sub(r"(?<=[a-z0-9])(?=[a-z])|(?<=[a-z])(?=[0-9])", "[-/]?", joined)
    return re.compile(rf"\b{words}\b(?![-/](?:[a-z]|ligand|lg|receptor)\b)")


def _targets(match: re.Match[str]) -> list[str]:
    """The targets that a CD number with what follows it stands for."""
    number, letters = match["number"], match["letters"]
    apart, partner = match["apart"] or "", match["partner"] or ""
    is_letter = apart in ("l", "r") or apart in _LETTERS.get(number, "")
    if partner or (not letters and is_letter):
        letters += partner[:1] or apart
    elif not letters and number == "45" and apart.startswith("r"):
        letters = apart
    listed = [part for part in (match["more"] or "").split("/") if part]
    others = [part if part.isdigit() else number + part for part in listed]
    return [f"cd{target}" for target in (number + letters, *others)]


def _number(target: str) -> str:
    return re.sub(r"(?<=\d)\D.*", "", target)


def _kin(target: str, other: str) -> bool:
    """The same target: by another number, or once more or less exact (CD8 and CD8A).

    CD45RA is not CD45, nor CD40L CD40.
    """
    gene = _gene(target)
    if gene is not None and other in _numbers_of(gene):
        return True
    short, long = sorted((target, other), key=len)
    added = long.removeprefix(short)
    narrower = long == other and added.startswith(("l", "r"))
    return long.startswith(short) and not added[:1].isdigit() and not narrower
