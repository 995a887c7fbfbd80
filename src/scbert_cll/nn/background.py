"""The first block when every gene attends: genes that are not expressed enter it alike everywhere.

Their keys and values are summed once for all cells; a cell takes away what the genes it expresses
would have added as zeros, and adds what they add. Their queries' features are computed once for all
cells, too. Exact, but for rounding: where the subtraction would leave little of a large sum,
`first_block` declines. The plain twin is `Block` itself. Without gradients only.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from scbert_cll.nn.block import Block
from scbert_cll.nn.context import Context, at_a_time, largest_exponents, steps, take

MIN_CELLS: Final = 3  # fewer do not pay for the sums over all genes
# by how much (in the exponent) the largest key may fall when expressed genes are taken out
_MOST_LOST: Final = 2.0


def first_block(
    block: Block, baseline: Tensor, x: Tensor, index: Tensor, expressed: Tensor
) -> Tensor | None:
    """Output of `block` for x (b, n, w), or None where that would lose precision.

    Parameters
    ----------
    block
        A block with FAVOR+ attention and a stabiliser of its own for each cell.
    baseline
        The tokens with no gene expressed, (1, n, w).
    x
        The tokens, (b, n, w); equal to `baseline` except at `index`.
    index, expressed
        Places of the expressed genes, padded (b, m), and which are no padding, bool (b, m).
    """
    attention, norm = block.attention, block.attention_norm
    context, tops = _sum_of_zeros(block, baseline)
    old, new = (norm(take(y.expand_as(x), index)) for y in (baseline, x))
    context.repeat(len(x))
    for tokens, sign in ((old, -1.0), (new, 1.0)):
        context.add(*attention.keys_values(tokens), sign * expressed.float())
    # (b, n, h): largest exponent of each token's key
    tops = tops.expand(len(x), -1, -1).clone()
    tops.scatter_(1, index.unsqueeze(-1).expand(-1, -1, attention.n_heads), -torch.inf)
    of_new = largest_exponents(attention.keys(new), attention.kernel, expressed)
    # (b, h, 1, 1)
    largest = torch.maximum(tops.amax(1), of_new.amax(1))[..., None, None]
    if attention.stabilizer == "cell":
        largest = largest.amax(1, keepdim=True)
    if (context.largest - largest).max() > _MOST_LOST:
        return None
    context.finalize(largest)
    result = torch.empty_like(x)
    for span in _spans(block, x):  # zeros have the same queries in all cells
        result[:, span] = block.refine(baseline[:, span], context)
    cell = torch.arange(len(x), device=x.device).unsqueeze(1).expand_as(index)
    refined = block.refine(take(x, index), context)
    result[cell[expressed], index[expressed]] = refined[expressed]
    return result


def _sum_of_zeros(block: Block, baseline: Tensor) -> tuple[Context, Tensor]:
    """Context of a cell that expresses nothing, and its keys' largest exponents, (1, n, h)."""
    attention = block.attention
    context, tops = Context(attention.kernel), []
    for span in _spans(block, baseline):
        k, v = attention.keys_values(block.attention_norm(baseline[:, span]))
        context.add(k, v)
        tops.append(largest_exponents(k, attention.kernel))
    return context, torch.cat(tops, dim=1)


def _spans(block: Block, x: Tensor) -> list[slice]:
    """Spans of tokens with few features at a time."""
    per_token = len(block.attention.projection) * block.attention.n_heads
    return list(steps(x.shape[1], max(16, at_a_time(x.device) // per_token)))
