"""Species by how genes are written, and the gene of man under its name in a data set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll._cli import shared
from scbert_cll._gene_names import species as _species
from scbert_cll._gene_names.resolver import gene_in_data
from tests._make import cells

HUMAN = ["ITGA4", "MT-CO1", "HLA-DRA", "C1orf112", "IGHV1-69", "AC149090.1", "H3-3B", "NKX2-1"]
MOUSE = ["Itga4", "mt-Co1", "H2-Aa", "A430005L14Rik", "1700001C19Rik", "AC149090.1", "B2m", "C3"]


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (HUMAN, "human"),
        (MOUSE, "mouse"),
        ([f"GRCh38_{name}" for name in HUMAN], "human"),
        ([f"mm10___{name}" for name in MOUSE], "mouse"),
        ([f"ENSG00000{i:06d}.3" for i in range(9)], "human"),
        ([f"ENSMUSG00000{i:06d}" for i in range(9)], "mouse"),
        ([f"ENSDARG00000{i:06d}" for i in range(9)], None),
        ([*HUMAN, *MOUSE], None),
        ([*HUMAN, *(f"Gm{i}" for i in range(2))], None),
        (["itga4", "mt-co1", "AC149090.1"], None),
        ([], None),
    ],
)
def test_species_is_that_of_nine_in_ten_names(names: list[str], species: str | None) -> None:
    assert _species.species_of(names) == species


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (HUMAN, "ITGA4"),
        (MOUSE, "Itga4"),
        (["GRCh38_ITGA4", "GRCh38_CD19", "mm10___Itga4", "mm10___Cd19"], "GRCh38_ITGA4"),
        (["mm10___Itga4", "mm10___Cd19"], "mm10___Itga4"),
        (["CD19", "CD5", "Itga4"], "ITGA4"),  # not the mouse's data
        (["GRCh38_ITGA4", "hg19_ITGA4"], "ITGA4"),  # which of them?
        (["Cd19", "Cd5"], "ITGA4"),
    ],
)
def test_the_gene_under_its_name_in_the_data(names: list[str], name: str) -> None:
    assert gene_in_data("ITGA4", pd.Index(names)) == name


# --- the path of CD49d on data of the mouse


def mouse(**choices: bool) -> AnnData:
    """Cells of six donors with Itga4, families, and genes that go with CD49d."""
    special = ["Itga4", "Cd38", "mt-Co1", "H2-Aa", "Ighm", "Xist", "Rps6", "Itgb1", "Lyz2", "Cd3e"]
    genes = [*special, *(f"Gm{i}" for i in range(100, 150))]
    return cells(480, genes=genes, planted=7, **choices)


def test_a_signature_marks_itga4_and_the_families() -> None:
    adata = mouse()
    sc_cll.tl.signature(adata, min_detected=0)
    record = adata.uns["signature"]
    family = record["genes"].set_index("gene")["family"]
    assert family["Itga4"] == "marker"
    assert record["params"]["gene"] == "Itga4"
    names = ["mt-Co1", "H2-Aa", "Ighm", "Xist", "Rps6", "Cd38"]
    expected = ["mitochondrial", "HLA", "immunoglobulin", "sex", "ribosomal", ""]
    assert family[names].tolist() == expected
    arms = record["arms"].set_index("arm")["n_tested"]
    assert arms.to_dict() == {
        "all genes": 60,
        "without donor and technical genes": 55,
        "without the marker's gene": 59,
        "without both": 54,
    }


def test_a_report_of_the_mouse_knows_no_chromosome_12_and_its_reference_genes() -> None:
    adata = mouse()
    adata.var["chromosome"] = np.where(np.arange(adata.n_vars) % 9 == 0, "12", "1")
    sc_cll.tl.signature(adata, min_detected=0)
    report = sc_cll.tl.signature_report(
        adata, chromosome_key="chromosome", n_random=19, n_permutations=19
    )
    gates = report.gates[report.gates["subject"] == "signature"].set_index("gate")
    assert gates.loc["chromosome 12", "passed"] == "not run"
    assert gates.loc["chromosome 12", "note"] == (
        "trisomy 12 is of man, and these are genes of the mouse"
    )
    assert gates.loc["reference genes", "note"].startswith("3 of ")  # Itga4, Cd38, Itgb1
    assert gates.loc["other cells", "passed"] == "yes"  # Cd3e was tested, and is not in it


def test_models_of_the_gene_alone_and_without_it() -> None:
    adata = mouse()
    sc_cll.tl.cross_validate(adata, models=["gene_only"], n_repeats=1, n_bootstrap=5)
    assert adata.uns["cv"]["params"]["gene"] == "Itga4"
    assert adata.obsm["cv_proba"].nunique().min() > 2  # not the shares of the classes
    alone = sc_cll.estimators.baselines()["gene_only"].fit(
        adata, adata.obs["cd49d"], adata.obs["donor"]
    )
    assert alone.gene_ == "Itga4"


def test_protein_is_drawn_against_itga4() -> None:
    ax = sc_cll.pl.cd49d(mouse(protein=True), levels="cell", show=False)
    assert "Itga4 UMI" in ax.get_xlabel()


def test_the_commands_find_itga4_and_refuse_what_is_not_there() -> None:
    adata = mouse()
    assert shared.typed_gene(adata, None, "ITGA4") == "Itga4"
    assert shared.typed_gene(adata, "CD38", "ITGA4") == "Cd38"
    assert shared.typed_gene(adata[:, 1:], None, "ITGA4") is None
    with pytest.raises(
        KeyError, match=r"'CD5' is not in adata\.var_names; it has .*'Cd38'.*with --gene"
    ):
        shared.typed_gene(adata, "CD5", "ITGA4")
