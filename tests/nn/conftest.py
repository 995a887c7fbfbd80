"""Every test of the network runs twice: with the features kept, as in small networks, and span by
span, as in large ones.
"""

from __future__ import annotations

import pytest

from scbert_cll.nn import favor


@pytest.fixture(params=["kept", "spans"], autouse=True)
def _size(request, monkeypatch):
    if request.param == "spans":
        monkeypatch.setattr(favor, "_SMALL", 0)
