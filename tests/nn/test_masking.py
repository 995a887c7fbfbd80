from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll.nn import mask_tokens

MASK = 6


@st.composite
def token_rows(draw):
    b, n = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    values = draw(st.lists(st.integers(0, 5), min_size=b * n, max_size=b * n))
    return torch.tensor(values).view(b, n)


@settings(max_examples=60, deadline=None)
@given(tokens=token_rows(), seed=st.integers(0, 2**31), fraction=st.floats(0.01, 0.99))
def test_only_expressed_genes_are_hidden_and_as_many_as_asked(tokens, seed, fraction):
    seen, chosen = mask_tokens(
        tokens, MASK, fraction=fraction, generator=torch.Generator().manual_seed(seed)
    )
    assert not chosen[tokens == 0].any()
    assert torch.equal(seen[~chosen], tokens[~chosen])
    assert ((seen == MASK) | (seen == tokens)).all()
    expressed = (tokens > 0).sum(-1)
    wanted = (fraction * expressed).round().clamp(min=1).minimum(expressed)
    assert torch.equal(chosen.sum(-1).float(), wanted.float())


def test_nine_in_ten_of_the_chosen_become_the_mask_and_the_draw_repeats():
    tokens = torch.randint(1, 6, (200, 100), generator=torch.Generator().manual_seed(0))
    seen, chosen = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(1))
    again = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(1))
    other = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(2))
    assert abs((seen[chosen] == MASK).float().mean() - 0.9) < 0.02
    assert torch.equal(seen, again[0])
    assert not torch.equal(seen, other[0])
    # every gene has the same chance
    assert chosen.float().mean(0).std() < 2 * (0.15 * 0.85 / 200) ** 0.5
