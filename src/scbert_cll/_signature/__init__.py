"""Genes that differ between classes of cells within donors, with the evidence for each."""
