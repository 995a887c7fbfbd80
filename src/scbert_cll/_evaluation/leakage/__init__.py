"""What a leakage audit looks for."""
