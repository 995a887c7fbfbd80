"""What the pages say was measured, by subject: ``python -m benchmarks.SUBJECT``."""
