"""Law: a marker is found under any decoration of its name, and no other CD number is ever answered
for it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import scbert_cll as sc_cll

# One spelling of each target; no two of them are of one gene.
LETTERED = [
    "CD1c",
    "CD1d",
    "CD11a",
    "CD11b",
    "CD11c",
    "CD45RA",
    "CD45RO",
    "CD49a",
    "CD49b",
    "CD49d",
    "CD49f",
    "CD62L",
    "CD66b",
    "CD79b",
    "CD107a",
    "CD158e1",
    "CD172a",
    "CD235a",
]
TARGETS = [f"CD{number}" for number in range(1, 372)] + LETTERED
PREFIXES = [
    "",
    "ADT_",
    "ADT-",
    "adt_",
    "prot_",
    "prot:",
    "CITE-",
    "Hu.",
    "hu",
    "h",
    "anti-human ",
    "Anti-Human_",
    "anti-mouse/human ",
    "AB_",
    "α-",
    "A0576-",
    "C0576_anti-human_",
    "TotalSeq-B ",
    "X304337_",
    "human\u00a0",
]
SUFFIXES = [
    "_TotalSeqB",
    "-TotalSeqC",
    "TotalSeqA",
    ".TotalA",
    "-TotalC",
    "_A0576",
    "-TSC0576",
    "-TSA",
    "_Ab",
    ":AB",
    "-Ab-O",
    "-PROT",
    " _PROT",
    "|AHS0063|pAbO",
    " (Integrin alpha-4)",
    " Recombinant",
    " mIgG1",
    " (Mouse IgG2b, κ)",
    "_Human",
]
BARCODES = st.text("ACGT", min_size=12, max_size=15).map("-{}".format)
CLONES = st.from_regex(r"(--|-| \(|:)[A-BE-Z]{1,3}[0-9]{1,3}(\.[0-9])?", fullmatch=True)
REPEATED = st.sampled_from(["-1", "-2", ".1", "_2"])
CASES = st.sampled_from([str, str.upper, str.lower])


@st.composite
def decorated(draw: st.DrawFn, target: str) -> str:
    """The target's name as some vendor, pipeline or counting tool may write it."""
    text = draw(CASES)(target)
    if target not in ("CD45", "CD90"):  # CD45.1 and CD90.2 are alleles of the mouse
        text += draw(st.just("") | REPEATED)
    suffixes = st.sampled_from(SUFFIXES) | BARCODES | CLONES
    return draw(st.sampled_from(PREFIXES)) + text + "".join(draw(st.lists(suffixes, max_size=2)))


@st.composite
def panels(draw: st.DrawFn) -> tuple[list[str], dict[str, str], list[str]]:
    """A panel with isotype controls, what each target is called in it, and targets it does not
    have.
    """
    chosen = draw(st.lists(st.sampled_from(TARGETS), min_size=6, max_size=12, unique=True))
    there, absent = chosen[3:], chosen[:3]
    called = {target: draw(decorated(target)) for target in there}
    controls = ["Mouse IgG1, κ isotype Ctrl", "Rat_IgG2b", "MouseIgG2akappaisotype_PROT"]
    return draw(st.permutations([*called.values(), *controls])), called, absent


def labelled_by(panel: list[str], marker: str) -> str:
    """The protein that the labels of a marker come from."""
    values = np.arange(40)[:, None] % np.arange(10, 10 + len(panel))
    adata = AnnData(np.ones((40, 2), dtype=np.float32))
    adata.obsm["protein"] = pd.DataFrame(values, adata.obs_names, panel)
    sc_cll.pp.label_cd49d(adata, marker=marker, method="quantile", normalize="none", donor_key=None)
    return str(adata.uns["cd49d"]["params"]["protein"])


@settings(max_examples=25, deadline=None)
@given(panels())
def test_a_marker_is_the_protein_that_bears_its_name_or_a_refusal(case):
    panel, called, absent = case
    for target, name in called.items():
        assert labelled_by(panel, target) == name
    for target in absent:
        with pytest.raises(KeyError, match=f"{target!r} is not among"):
            labelled_by(panel, target)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(TARGETS), st.data())
def test_two_antibodies_of_a_target_are_a_question(target, data):
    names = data.draw(st.lists(decorated(target), min_size=2, max_size=2, unique=True))
    plain = [name for name in names if name.lower() == target.lower()]
    panel = [*names, "CD999"]
    if target in names or len(plain) == 1:
        assert labelled_by(panel, target) == (target if target in names else plain[0])
    else:
        with pytest.raises(KeyError, match="fits more than one protein"):
            labelled_by(panel, target)
