"""Names of genes: whose they are."""
