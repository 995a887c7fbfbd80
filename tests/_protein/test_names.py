"""Which protein a marker means, by hand: every rule once, through verbs that look proteins up."""

from __future__ import annotations

import re
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll._protein.names import positions

OTHERS = [
    "CD19",
    "CD5",
    "CD3",
    "CD14",
    "CD4",
    "CD49a",
    "CD49b",
    "CD49f",
    "CD29",
    "CD20",
    "CD38",
    "CD27",
    "CD45RA",
    "CD56",
]


def panel(*names: str) -> AnnData:
    """Cells in two halves by every protein, so that any can be labelled."""
    rng = np.random.default_rng(0)
    high = np.arange(60) % 2 == 0
    values = np.stack([rng.poisson(np.where(high, 60, 4)) for _ in names], axis=1).astype(float)
    adata = AnnData(
        np.random.default_rng(1).poisson(2.0, (60, 3)).astype(np.float32),
        var=pd.DataFrame(index=["ITGA4", "MS4A1", "PTPRC"]),
    )
    adata.obsm["protein"] = pd.DataFrame(values, adata.obs_names, list(names))
    return adata


def found(names: list[str], marker: str) -> str:
    """The protein that the marker is labelled by."""
    adata = panel(*names)
    how = {"normalize": "clr_protein", "method": "quantile", "donor_key": None}
    sc_cll.pp.label_cd49d(adata, marker=marker, **how)
    return str(adata.uns["cd49d"]["params"]["protein"])


CD49D = [
    "CD49d-CCATTCAACTTCCGG",
    "CD49d|ITGA4|AHS0063|pAbO",
    "CD49d:9F10|ITGA4|AHS0063|pAbO",
    "ADT-CD49D-ITGA4",
    "CITE-CD49d",
    "CD49d_Ab",
    "AB_CD49d",
    "CD49d:AB",
    "CD49d--9F10-TSC0576",
    "CD49d-9F10-TotalC",
    "CD49d (9F10)",
    "prot:CD49d",
    "ITGA4-PROT",
    "anti-human CD49d (Integrin alpha-4)",
    "anti-mouse/human CD49d",
    "C0576_anti-human_CD49d",
    "A0576-CD49d",
    "CD49d-1",
    "CD49d.1",
    "cd49d",
    "CD49D",
    "CD-49d",
    "CD 49d",
    "CD49-d",
    "CD49\u00a0d",
    "αCD49d",
    "hCD49d",
    "Hu.CD49d",
    "HuCD49d",
    "CD49dTotalSeqB",
    "CD49d mIgG1",
    "CD49d (Mouse IgG1, κ)",
    "CD49d_isotype_mouse_IgG1",
    "Integrin α4 (CD49d)",
]


@pytest.mark.parametrize("name", CD49D)
def test_a_marker_is_found_under_a_vendors_name(name):
    assert found([*OTHERS, name], "CD49d") == name


@pytest.mark.parametrize(
    ("names", "marker", "expected"),
    [
        (["CD3-1", "CD3"], "CD3", "CD3"),
        (["CD4.1", "CD8"], "CD4", "CD4.1"),
        (["CD45-RA", "CD19"], "CD45RA", "CD45-RA"),
        (
            ["CD45RA:HI100|PTPRC|AHS0009|pAbO", "CD45|PTPRC|AHS0040|pAbO"],
            "CD45",
            "CD45|PTPRC|AHS0040|pAbO",
        ),
        (["Ms.CD19", "Hu.CD19"], "CD19", "Hu.CD19"),
        (["mCD19", "CD19-HIB19"], "CD19", "CD19-HIB19"),
        (["anti_mouse_CD19", "anti_mouse_CD3"], "CD19", "anti_mouse_CD19"),  # a study of mice
        (["CD3D_prot", "CD8"], "CD3", "CD3D_prot"),
        (["MS4A1", "CD19"], "CD20", "MS4A1"),
        (["CD20-PROT", "CD19"], "MS4A1", "CD20-PROT"),
        (["CD49d", "CD29"], "ITGA4", "CD49d"),
        (["CD154", "CD40"], "CD40L", "CD154"),
        (["CD8:SK1|CD8A|AHS0228|pAbO", "CD4"], "CD8", "CD8:SK1|CD8A|AHS0228|pAbO"),
        (["CD279 (PD-1)", "CD274 (B7-H1, PD-L1)"], "PD-1", "CD279 (PD-1)"),
        (["CD279 (PD-1)", "CD274 (B7-H1, PD-L1)"], "PD-L1", "CD274 (B7-H1, PD-L1)"),
        (["HLADR_PROT", "CD4"], "HLA-DR", "HLADR_PROT"),
        (["TCR α/β", "TCR γ/δ"], "TCRab", "TCR α/β"),
        (["CD28-CD28.2-TSC0386", "CD4"], "CD28", "CD28-CD28.2-TSC0386"),
        (["CD34--581-TSA", "CD4"], "CD34", "CD34--581-TSA"),
        (["CD278 _PROT", "CD4"], "CD278", "CD278 _PROT"),
        (["CD19-A", "CD5-A"], "CD19", "CD19-A"),
        (["CD66a/c/e", "CD4"], "CD66a/c/e", "CD66a/c/e"),
        (["CD158 (KIR2DL1/S1/S3/S5)", "CD4"], "CD158", "CD158 (KIR2DL1/S1/S3/S5)"),
        (["CD11a/CD18 (LFA-1)", "CD18"], "CD18", "CD18"),
        (["IgM", "CD19 (Mouse IgM)"], "IgM", "IgM"),
        (["IgG1", "CD4"], "IgG1", "IgG1"),
        (["HLA-DR (Mouse IgG2a, κ)", "CD4"], "HLA-DR", "HLA-DR (Mouse IgG2a, κ)"),
        (["CD40L (CD154)", "CD40"], "CD154", "CD40L (CD154)"),
        (["AB_CD40LG", "CD40"], "CD154", "AB_CD40LG"),
        (["CD49d, κ", "CD29"], "CD49d", "CD49d, κ"),
    ],
)
def test_the_protein_that_is_meant(names, marker, expected):
    assert found(names, marker) == expected


@pytest.mark.parametrize(
    ("names", "marker"),
    [
        (["CD3-1", "CD3-2"], "CD31"),
        (["CD3-1", "CD3-2"], "CD32"),
        (["CD4.1"], "CD41"),
        (["CD31", "CD3-2"], "CD3-1"),
        (["CD19"], "Ms.CD19"),
        (["CD14-1", "CD141"], "CD1"),
        (["CD49d"], "CD49"),
        (["CD11b"], "CD11"),
        (["CD38"], "CD3"),
        (["CD5L"], "CD5"),
        (["CD45RA", "CD45-RO", "CD45R/B220"], "CD45"),
        (["CD45RA|PTPRC", "CD45RO|PTPRC"], "CD45"),
        (["CD40 ligand", "CD40L", "CD40-L"], "CD40"),
        (["CD268 (BAFF-R)"], "BAFF"),
        (["Ms.CD19", "CD20", "CD5"], "CD19"),
        (["anti-mouse CD19", "CD20", "CD5"], "CD19"),
        (["CD45.2", "CD20", "CD5"], "CD45"),  # an allele of the mouse
        (["IgG1 control", "Mouse-IgG2b", "Rat IgG1, kappa isotype"], "IgG1"),
        (["Mouse-IgG2b", "CD19 (Mouse IgG2b)"], "IgG2b"),
        (["CD1d-tetramer"], "CD1d"),
        (["CD19 CAR"], "CD19"),
        (["Hashtag_1 (CD298, B2M)"], "CD298"),
        (["CD66a/c/e"], "CD66a"),
        (["CD66a/c/e"], "CD66c"),
        (["CD16/32"], "CD32"),
        (["CD11a/CD18 (LFA-1)"], "CD18"),
        (["HLA-A-B-C"], "HLA-A"),
        (["CD8a", "CD8b"], "CD8"),
        (["CD4"], "-"),
    ],
)
def test_another_protein_is_never_the_answer(names, marker):
    with pytest.raises(
        KeyError, match=rf"{re.escape(repr(marker))} is not among the .*closest first"
    ):
        found([*names, "HLA-DR"], marker)


def test_two_matches_are_a_question_and_an_exact_name_is_its_answer():
    names = ["CD3-1", "CD3-2", "CD19"]
    with pytest.raises(
        KeyError, match=r"'CD3' fits more than one protein.*'CD3-1', 'CD3-2'.*exactly, e.g. 'CD3-1'"
    ):
        found(names, "CD3")
    assert found(names, "CD3-1") == "CD3-1"


@pytest.mark.parametrize(
    "best", ["Ms.CD49d", "CD49d/CD29", "CD49d tetramer", "CD49e", "ITGA4 control"]
)
def test_the_best_match_is_first_in_the_refusal(best):
    with pytest.raises(KeyError) as error:
        found([*(name for name in OTHERS if "49" not in name), "CD490", best], "CD49d")
    assert re.findall(r"'([^']*)'", str(error.value).split("closest first:")[1])[0] == best


# -- the same look-up in every verb
# ------------------------------------------------------------------------------------


def test_cll_mask_finds_markers_as_words_and_tells_which():
    mdata = sc_cll.datasets.cll_toy()
    plain = sc_cll.pp.cll_mask(mdata)
    mdata["prot"].var_names = [
        f"C{i:04}_anti-human_{name}" for i, name in enumerate(mdata["prot"].var_names)
    ]
    mask = sc_cll.pp.cll_mask(mdata)
    pd.testing.assert_series_equal(mask, plain)
    assert {m: p.split("_")[-1] for m, p in mask.attrs["proteins"].items()} == plain.attrs[
        "proteins"
    ]
    assert set(mask.attrs["proteins"]) == set(mask.attrs["thresholds"])


def test_the_figure_shows_the_name_that_was_found():
    adata = panel("CD49d|ITGA4|AHS0063|pAbO", "CD49a")
    ax = sc_cll.pl.cd49d(adata, donor_key=None, normalize="clr_protein", show=False)
    assert "CD49d|ITGA4|AHS0063|pAbO" in ax.get_ylabel()


# -- the marker's own values alone must be right
# -----------------------------------------------------------------------

WRONG = {"NaN": np.nan, "infinite": np.inf, "negative": -1.0, "not whole": 1.5, "text": "high"}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("as_mudata", [False, True])
def test_another_antibodys_values_block_nothing(wrong, as_mudata):
    def panel_with(*names: str) -> AnnData | md.MuData:
        adata = panel("CD49d", "CD19", "CD5", "CD3", *names)
        if names:
            adata.obsm["protein"] = adata.obsm["protein"].astype(object)
            adata.obsm["protein"].iloc[3, 4] = wrong
        if not as_mudata:
            return adata
        values = pd.DataFrame(
            {name: pd.to_numeric(v, errors="coerce") for name, v in adata.obsm["protein"].items()}
        )
        return md.MuData(
            {"rna": adata, "prot": AnnData(sparse.csr_matrix(values), adata.obs, values.T[[]])}
        )

    def label(data, **how):
        sc_cll.pp.label_cd49d(data, method="quantile", donor_key=None, **how)
        rna = data["rna"] if isinstance(data, md.MuData) else data
        return rna.obs["cd49d"], rna.uns["cd49d"]["params"]

    for normalize in ("clr_protein", "none"):
        pd.testing.assert_series_equal(
            label(panel_with("CD38"), normalize=normalize)[0],
            label(panel_with(), normalize=normalize)[0],
        )
    data = panel_with("CD38")
    with pytest.warns(
        UserWarning, match="1 of 5 proteins in .* are left out of the scale of a cell: 'CD38'"
    ):
        got, params = label(data)
    expected, without = label(panel_with())
    pd.testing.assert_series_equal(got, expected)
    assert params["left_out"] == ["CD38"]
    assert "left_out" not in without


@pytest.mark.parametrize("how", ["mask", "figure"])
def test_neither_do_they_for_the_mask_and_the_figure(how):
    mdata = sc_cll.datasets.cll_toy()
    other = next(
        i
        for i, name in enumerate(mdata["prot"].var_names)
        if name not in ("CD49d", "CD19", "CD5", "CD3", "CD14")
    )
    values = np.asarray(
        mdata["prot"].X.todense() if sparse.issparse(mdata["prot"].X) else mdata["prot"].X,
        dtype=float,
    )
    values[5, other] = np.nan
    mdata["prot"].X = values
    if how == "mask":
        assert sc_cll.pp.cll_mask(mdata).any()
    else:
        sc_cll.pl.cd49d(mdata, normalize="clr_protein", levels="cell", show=False)


def test_missing_numbers_of_pandas_are_missing_values():
    adata = panel("CD49d", "CD19", "CD5")
    adata.obsm["protein"] = adata.obsm["protein"].astype("Int64")
    adata.obsm["protein"].iloc[0, 1] = pd.NA
    how = {"normalize": "clr_protein", "method": "quantile", "donor_key": None}
    sc_cll.pp.label_cd49d(adata, **how)
    with pytest.raises(ValueError, match=r"first nan \(cell '0', protein 'CD19'\)"):
        sc_cll.pp.label_cd49d(adata, marker="CD19", **how)


def test_names_made_unique_as_the_refusal_says():
    adata = panel("CD49d", "CD19", "CD5")
    adata.obsm["protein"].columns = ["CD49d", "CD19", "CD19"]
    how = {"normalize": "clr_protein", "method": "quantile", "donor_key": None}
    with pytest.raises(ValueError, match="must be unique") as error:
        sc_cll.pp.label_cd49d(adata, **how)
    exec(  # noqa: S102
        f"import anndata; {str(error.value).split('Remedy: ')[1].split(', or ')[0]}",
        {"adata": adata},
    )
    sc_cll.pp.label_cd49d(adata, marker="CD19", **how)
    assert adata.uns["cd49d"]["params"]["protein"] == "CD19"


# -- names that read alike
# ----------------------------------------------------------------------------------


def test_a_name_that_reads_like_the_marker_makes_it_a_question():
    """With CD14-1 in the panel, who drops separators reads two names as CD141; the word comes
    first.
    """
    names = ["CD14-1", "CD141_Thrombomodulin"]
    with pytest.raises(
        KeyError, match=r"'CD141' fits more than one protein.*: 'CD141_Thrombomodulin', 'CD14-1';"
    ):
        found(names, "CD141")
    assert found(names, "CD141_Thrombomodulin") == "CD141_Thrombomodulin"
    assert found(["CD14-1", "CD141"], "CD141") == "CD141"


@pytest.mark.parametrize("name", ["CD40 L", "CD40-L", "CD40L", "cd40 l", "anti-human CD40 L"])
def test_a_ligand_is_not_its_receptor(name: str) -> None:
    """CD40L, also with its letter apart, is CD154."""
    panel = [name, "CD40", "CD3"]
    assert positions(panel, "CD40L") == [0]
    assert positions(panel, "CD40") == [1]
    assert positions([name, "CD3"], "CD40") == []


# -- published panels: how many markers are found, and whether any answer is another protein

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


def cells_of(panel: list[str]) -> AnnData:
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
    adata = cells_of(panel)
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
        for marker in sorted(numbers):
            found = {panel[i] for i in positions(panel, marker)}
            genes = set(SAME[marker].split("/")) if marker in SAME else set()
            others = {name for name in found if not genes & words(name)} - set(
                holders(panel, marker)
            )
            assert not others, f"{marker} is not {others}"
            pairs, answered = pairs + 1, answered + bool(found)
    assert pairs >= 10_000
    assert answered >= 1_500
