from __future__ import annotations

import pytest
from anndata import AnnData

import scbert_cll as sb
from scbert_cll import get

FAMILY_NAMES = ("IGHV1-69", "LPL", "CD38")


@pytest.fixture(scope="module")
def planted() -> AnnData:
    """Two planted genes under names of families, and ITGA4 among the planted."""
    adata = sb.datasets.planted_donors(n_genes=100, n_planted=12, rng=0)
    first = adata.var_names[adata.var["truth"] != 0][:3]
    adata.var_names = (
        adata.var_names.to_series().replace(dict(zip(first, FAMILY_NAMES, strict=True))).to_numpy()
    )
    sb.tl.signature(adata, groupby="label", gene="CD38")
    return adata


class TestSignature:
    def test_lists_the_selected_genes_with_the_clearest_first(self, planted: AnnData) -> None:
        table = get.signature(planted)
        assert table["selected"].all()
        assert table["q"].is_monotonic_increasing
        assert len(get.signature(planted, selected=False)) == planted.uns["signature"]["n_tested"]
        assert get.signature(planted, n_top=3)["gene"].tolist() == table["gene"].tolist()[:3]

    def test_families_are_named_and_can_be_left_out(self, planted: AnnData) -> None:
        table = get.signature(planted).set_index("gene")
        assert table.loc[list(FAMILY_NAMES), "family"].tolist() == ["immunoglobulin", "", "marker"]
        assert "IGHV1-69" not in set(get.signature(planted, drop_families="immunoglobulin")["gene"])
        assert set(get.signature(planted, drop_families=True)["family"]) == {""}
        arms = planted.uns["signature"]["arms"].set_index("arm")
        assert arms.loc["all genes", "n_selected"] == len(table)
        assert arms.loc["without both", "n_selected"] == len(
            get.signature(planted, drop_families=True)
        )
        assert "CD38" in arms.loc["without donor and technical genes", "genes"].split(", ")
        assert "CD38" not in arms.loc["without the marker's gene", "genes"].split(", ")

    def test_what_is_not_there_is_refused(self, planted: AnnData) -> None:
        with pytest.raises(KeyError, match=r"Run tl.signature first"):
            get.signature(planted, key="other")
        with pytest.raises(ValueError, match="drop_families"):
            get.signature(planted, drop_families="HB")

    def test_an_empty_signature_has_no_rows(self) -> None:
        adata = sb.datasets.planted_donors(n_cells=30, n_genes=60, rng=0)
        sb.tl.signature(adata, groupby="label", min_cells=29)
        assert len(get.signature(adata)) == 0
        assert {"gene", "sign", "q"} <= set(get.signature(adata))


@pytest.mark.parametrize(
    ("gene", "family"),
    [
        ("IGHV3-23", "immunoglobulin"),
        ("IGHD", "immunoglobulin"),
        ("IGHMBP2", ""),
        ("HLA-DRA", "HLA"),
        ("RPS4Y1", "sex"),
        ("RPS6", "ribosomal"),
        ("RPS6KA1", ""),
        ("RPLP0", "ribosomal"),
        ("MRPL12", ""),
        ("MT-CO1", "mitochondrial"),
        ("MT1X", ""),
        ("GRCh38_MT-CO1", "mitochondrial"),
        ("hg38-HLA-A", "HLA"),
        ("mt-Co1", "mitochondrial"),
        ("mm10___mt-Nd4", "mitochondrial"),
        ("Mt1", ""),
        ("H2-Aa", "HLA"),
        ("H2az1", ""),
        ("Ighv1-26", "immunoglobulin"),
        ("Igha", "immunoglobulin"),
        ("Ighg2b", "immunoglobulin"),
        ("Ighmbp2", ""),
        ("Iglon5", ""),
        ("Xist", "sex"),
        ("Eif2s3y", "sex"),
        ("Eif2s3x", ""),
        ("Rps4x", "ribosomal"),
        ("Rpl9-ps6", "ribosomal"),
        ("Rplp0", "ribosomal"),
        ("Rps6ka1", ""),
        ("Mrpl12", ""),
        ("ENSG00000198804.2", "mitochondrial"),
        ("ENSG00000231389", "HLA"),
        ("ENSG00000115232", "marker"),
        ("ITGA4", "marker"),
        ("GRCh38_ITGA4", "marker"),
    ],
)
def test_family_of_a_symbol(gene: str, family: str) -> None:
    adata = sb.datasets.planted_donors(n_genes=60, rng=0)
    adata.var_names = [gene, *adata.var_names[1:]]
    sb.tl.signature(adata, groupby="label", min_detected=0.0)
    assert get.signature(adata, selected=False).set_index("gene").loc[gene, "family"] == family
