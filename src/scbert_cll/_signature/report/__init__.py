"""What a signature report asks of a signature."""
