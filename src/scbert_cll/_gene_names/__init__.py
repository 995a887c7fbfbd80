"""Names of genes: their table, the function that resolves them, and the species they are of."""
