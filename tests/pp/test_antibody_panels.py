"""How many markers are found in published panels, and whether any answer is another protein."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll.pp import _protein

FILE = Path(__file__).parents[1] / "data" / "antibody_panels.txt"
# Names of the same target by HGNC, where the panels below have them in place of a CD number;
# written down apart from the package.
SAME = {
    "CD18": "ITGB2",
    "CD21": "CR2",
    "CD23": "FCER2",
    "CD26": "DPP4",
    "CD29": "ITGB1",
    "CD90": "THY1",
    "CD95": "FAS",
    "CD102": "ICAM2",
    "CD112": "NECTIN2",
    "CD115": "CSF1R",
    "CD140A": "PDGFRA",
    "CD140B": "PDGFRB",
    "CD144": "CDH5",
    "CD146": "MCAM",
    "CD150": "SLAMF1",
    "CD152": "CTLA4",
    "CD154": "CD40L/CD40LG",
    "CD40L": "CD154/CD40LG",
    "CD155": "PVR",
    "CD158F": "KIR2DL5A",
    "CD169": "SIGLEC1",
    "CD178": "FASLG",
    "CD183": "CXCR3",
    "CD184": "CXCR4",
    "CD185": "CXCR5",
    "CD186": "CXCR6",
    "CD192": "CCR2",
    "CD193": "CCR3",
    "CD194": "CCR4",
    "CD195": "CCR5",
    "CD196": "CCR6",
    "CD197": "CCR7",
    "CD204": "MSR1",
    "CD223": "LAG3",
    "CD224": "GGT1",
    "CD269": "TNFRSF17",
    "CD272": "BTLA",
    "CD273": "PDCD1LG2",
    "CD275": "ICOSLG",
    "CD278": "ICOS",
    "CD284": "TLR4",
    "CD294": "PTGDR2",
    "CD326": "EPCAM",
    "CD370": "CLEC9A",
    "CD371": "CLEC12A",
}


def read_panels() -> dict[str, list[str]]:
    panels: dict[str, list[str]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("> "):
            names = panels[line[2:]] = []
        elif not line.startswith("#"):
            names += line.split(" ; ")
    return panels


PANELS = read_panels()


def words(name: str) -> set[str]:
    """Words of a name with "." and "-" between them or within them: CTLA-4 is CTLA4. Not for CD
    numbers: CD3-1 is not CD31.
    """
    return set(re.split(r"[^A-Z0-9]+", name.upper())) | set(
        re.split(r"[^A-Z0-9]+", re.sub(r"[-.]", "", name.upper()))
    )


def holders(panel: list[str], *markers: str) -> list[str]:
    """Names with one of the markers as a word, as it is written."""
    return [
        name
        for name in panel
        if {marker.upper() for marker in markers} & set(re.split(r"[^A-Z0-9]+", name.upper()))
    ]


def cells(panel: list[str]) -> AnnData:
    adata = AnnData(np.ones((40, 2), dtype=np.float32))
    values = np.arange(40)[:, None] % np.arange(20, 20 + len(panel))
    adata.obsm["protein"] = pd.DataFrame(values, adata.obs_names, panel)
    return adata


def test_the_file_holds_panels_of_many_kinds():
    assert len(PANELS) >= 40
    assert sum(map(len, PANELS.values())) > 1900
    assert all(len(set(panel)) == len(panel) for panel in PANELS.values())


def answer(panel: list[str], marker: str) -> str:
    """The protein that the labels come from, or the refusal."""
    adata = cells(panel)
    try:
        sc_cll.pp.label_cd49d(
            adata, marker=marker, method="quantile", normalize="none", donor_key=None
        )
    except KeyError as refusal:
        return str(refusal)
    return str(adata.uns["cd49d"]["params"]["protein"])


def test_the_markers_of_a_cll_panel_are_found_in_published_panels():
    asked = answered = 0
    for panel in PANELS.values():
        for marker in ("CD49d", "CD19", "CD5", "CD3", "CD14"):
            if not (expected := holders(panel, marker)):
                continue
            asked, told = asked + 1, answer(panel, marker)
            if len(expected) == 1:
                answered += told == expected[0]
            else:  # two clones are a question that names both
                answered += "fits more than one protein" in told and all(
                    repr(name) in told for name in expected
                )
    assert asked >= 100
    assert answered >= 0.98 * asked


def test_no_cd_number_is_answered_with_another_protein():
    written = {word for panel in PANELS.values() for name in panel for word in words(name)}
    numbers = {f"CD{n}" for n in range(1, 372, 3)} | {
        w for w in written if re.fullmatch(r"CD\d+[A-Z]{0,2}\d?", w)
    }
    pairs = answered = 0
    for panel in PANELS.values():
        protein = _protein.find(cells(panel), None)
        for marker in sorted(numbers):
            found = {panel[i] for i in _protein.positions(protein, marker)}
            genes = set(SAME[marker].split("/")) if marker in SAME else set()
            others = {name for name in found if not genes & words(name)} - set(
                holders(panel, marker)
            )
            assert not others, f"{marker} is not {others}"
            pairs, answered = pairs + 1, answered + bool(found)
    assert pairs >= 10_000
    assert answered >= 1_500
