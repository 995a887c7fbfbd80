"""The format of a corpus on disk, and what reads files into it.

No torch, no AnnData is changed here.
"""
