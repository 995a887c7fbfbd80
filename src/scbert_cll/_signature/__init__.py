"""Genes that differ between classes of cells within donors: sums, size factors, a moderated test and a linear gate."""
