"""What the keys and slots of an AnnData are called."""

from __future__ import annotations

from scbert_cll._keys import slot_name


def test_slots_are_named_as_python_writes_them() -> None:
    assert slot_name(None) == "adata.X"
    assert slot_name("raw counts") == "adata.layers['raw counts']"
