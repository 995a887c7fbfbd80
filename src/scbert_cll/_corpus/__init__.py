"""The format of a corpus on disk, and what reads files into it; no torch, no AnnData is changed here."""
