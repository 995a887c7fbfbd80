"""Verbs: train the model, predict with it, and write what comes out into the AnnData."""

from __future__ import annotations

from scbert_cll.tl._gene2vec import gene2vec

__all__ = ["gene2vec"]
