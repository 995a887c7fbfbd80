"""The first block when every gene attends: most genes are not expressed, and enter it alike in every cell.

Their keys and values are summed once for all cells; a cell takes away what the genes it expresses
would have added as zeros, and adds what they add. Their queries' features are computed once for all
cells, too. Exact, but for rounding: where the subtraction would leave little of a large sum,
`first_block` declines. The plain twin is `Block.stream`. Without gradients only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from scbert_cll.nn import favor
from scbert_cll.nn.context import take

if TYPE_CHECKING:
    from scbert_cll.nn.performer import Block

FEWEST_CELLS: Final = 3  # fewer do not pay for the sums over all genes
_MOST_LOST: Final = (
    2.0  # by how much (in the exponent) the largest key may fall when expressed genes are taken out
)


def first_block(
    block: Block, still: Tensor, x: Tensor, index: Tensor, moved: Tensor
) -> Tensor | None:
    """What `block` makes of x (b, n, w), or None where that would lose precision.

    Parameters
    ----------
    block
        A block with FAVOR+ attention and a stabiliser of its own for each cell.
    still
        The tokens with no gene expressed, (1, n, w).
    x
        The tokens, (b, n, w); equal to `still` except at `index`.
    index, moved
        Places of the expressed genes (b, m), and which of them are meant, bool (b, m).
    """
    attention, n_heads = block.attention, block.attention.n_heads
    projection, stabilizer = attention.projection, attention.stabilizer
    context, tops = _sum_of_zeros(block, still)
    old, new = (block.attention_norm(take(y.expand_as(x), index)) for y in (still, x))
    context.repeat(len(x))
    for tokens, sign in ((old, -1.0), (new, 1.0)):
        context.add(*attention.keys_values(tokens), sign * moved.float())
    tops = tops.expand(len(x), -1, -1).clone()  # (b, n, h): largest exponent of each token's key
    tops.scatter_(1, index.unsqueeze(-1).expand(-1, -1, n_heads), -torch.inf)
    largest = torch.maximum(
        tops.amax(1), favor.largest_exponents(attention.keys(new), projection, moved).amax(1)
    )
    largest = largest[..., None, None]  # (b, h, 1, 1)
    largest = largest.amax(1, keepdim=True) if stabilizer == "cell" else largest
    if (context.largest - largest).max() > _MOST_LOST:
        return None
    context.close(largest)
    return _read(block, context, still, x, index, moved)


def _sum_of_zeros(block: Block, still: Tensor) -> tuple[favor.Context, Tensor]:
    """The context of a cell that expresses nothing, and the largest exponent of each key and head, (1, n, h)."""
    attention = block.attention
    context, tops = favor.Context(attention.projection, attention.stabilizer), []
    for span in _spans(block, still):
        k, v = attention.keys_values(block.attention_norm(still[:, span]))
        context.add(k, v)
        tops.append(favor.largest_exponents(k, attention.projection))
    return context, torch.cat(tops, dim=1)


def _read(
    block: Block, context: favor.Context, still: Tensor, x: Tensor, index: Tensor, moved: Tensor
) -> Tensor:
    """All cells' zeros ask with the same queries; the expressed genes ask for themselves."""
    attention, result = block.attention, torch.empty_like(x)
    for span in _spans(block, x):
        heads, _ = context.read(attention.queries(block.attention_norm(still[:, span])))
        result[:, span] = block.refine(still[:, span] + attention.mix(heads))
    tokens = take(x, index)
    heads, _ = context.read(attention.queries(block.attention_norm(tokens)))
    cell = torch.arange(len(x), device=x.device).unsqueeze(1).expand_as(index)
    result[cell[moved], index[moved]] = block.refine(tokens + attention.mix(heads))[moved]
    return result


def _spans(block: Block, x: Tensor) -> list[slice]:
    """Spans of tokens that hold few features at a time."""
    per_token = len(block.attention.projection) * block.attention.n_heads
    return list(favor.steps(x.shape[1], max(16, favor.at_a_time(x.device) // per_token)))
