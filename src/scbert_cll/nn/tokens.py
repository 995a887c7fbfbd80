"""From the expressed genes of cells, one cell behind the other, to padded tokens, on their device.

Letters in shapes: b cells, n tokens of the longest, nnz expressed genes of all cells together.
All shapes follow from the lengths, which stay on the host: no step asks a GPU for a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scbert_cll.nn.config import Config


def tokens(
    values: Tensor,
    genes: Tensor,
    lengths: Sequence[int] | Tensor,
    config: Config,
    order: Tensor | None = None,
) -> dict[str, Tensor]:
    """Padded tokens of cells as `config.tokens` wants them; `Performer.encode` explains them.

    Parameters
    ----------
    values
        Bins of the expressed genes, cell by cell, uint8 (nnz,).
    genes
        Which genes these are, int32 (nnz,); a cell has a gene once.
    lengths
        Number of expressed genes of each cell, (b,): a list, or a tensor on the CPU. One on a GPU
        would be waited for.
    order
        All genes in a random order, int64 (n_genes,), needed for ``tokens="background"``: a cell's
        sample is the first `n_background` that it does not express. It may stay on the CPU; only
        its beginning is moved.

    Returns
    -------
    ``tokens`` int64 (b, n), and unless every gene is a token ``genes`` int64 (b, n) and ``weight``
    float32 (b, n), which is left out where all are 1. Behind the expressed genes come the sample,
    the end token (gene `n_genes`) and padding (gene 0 of weight 0).

    Raises
    ------
    ValueError
        A background without an order.
    """
    n_expressed = torch.as_tensor(lengths, dtype=torch.long, device="cpu")
    if config.tokens == "all":
        n = config.n_positions
        every = torch.zeros(len(n_expressed) * n, dtype=torch.long, device=values.device)
        every.scatter_(0, _rows(n_expressed, genes) * n + genes, values.long())
        return {"tokens": every.view(-1, n)}
    return _without_ones(_padded(values, genes, n_expressed, config, order), n_expressed, config)


def cut(
    cells: dict[str, Tensor], lengths: Sequence[Sequence[int]], config: Config
) -> list[dict[str, Tensor]]:
    """Cut cells that `tokens` laid out together as if each list of lengths were laid out alone."""
    parts: list[dict[str, Tensor]] = []
    stop = 0
    for part in lengths:
        start, stop = stop, stop + len(part)
        n_expressed = torch.as_tensor(part, dtype=torch.long)
        width = int(_n_tokens(n_expressed, config).max())
        of_part = {name: x[start:stop, :width].contiguous() for name, x in cells.items()}
        parts.append(_without_ones(of_part, n_expressed, config))
    return parts


def _padded(
    values: Tensor, genes: Tensor, n_expressed: Tensor, config: Config, order: Tensor | None
) -> dict[str, Tensor]:
    """Expressed genes, the background where it is wanted, and zeros behind them."""
    place = torch.arange(int(_n_tokens(n_expressed, config).max()), device=genes.device)
    expressed = place < _column(n_expressed, genes)  # (b, n)
    bins = torch.zeros(expressed.shape, dtype=torch.long, device=genes.device)
    bins.masked_scatter_(expressed, values.long())
    # one number more than the table has places: there goes what is not wanted
    spilling = torch.zeros(bins.numel() + 1, dtype=torch.long, device=genes.device)
    cells = {"tokens": bins, "genes": spilling[:-1].view(bins.shape), "weight": expressed.float()}
    cells["genes"].masked_scatter_(expressed, genes.long())
    if config.tokens == "background":
        _write_sample(spilling, bins.shape[1], genes, n_expressed, config, order)
        _weigh_background(cells, place, n_expressed, config)
    return cells


def _write_sample(
    spilling: Tensor,
    n: int,
    genes: Tensor,
    n_expressed: Tensor,
    config: Config,
    order: Tensor | None,
) -> None:
    """Write each cell's first unexpressed genes in `order` behind its expressed ones, flat."""
    if order is None:
        raise ValueError('tokens="background" samples genes in one random order: pass order=….')
    b = len(n_expressed)
    first = order[: int(n_expressed.max()) + config.n_background].to(
        genes.device, non_blocking=genes.is_cuda
    )
    m = len(first)  # whatever a cell expresses, its sample is among these
    column = torch.full((config.n_genes,), m, device=genes.device)  # all other genes share one
    column.scatter_(0, first, torch.arange(m, device=genes.device))
    free = torch.ones(b, m + 1, dtype=torch.bool, device=genes.device)
    free.view(-1).scatter_(
        0, _rows(n_expressed, genes) * (m + 1) + column.index_select(0, genes), False
    )
    n_free = free.cumsum(1)  # one more at each gene that the cell does not express
    wanted = free & (n_free <= _column(_n_sample(n_expressed, config), genes))
    at = n_free + _column(torch.arange(b) * n + n_expressed - 1, genes)
    at = at.masked_fill_(~wanted, len(spilling) - 1)[:, :m]
    spilling.scatter_(0, at.flatten(), first.repeat(b))


def _weigh_background(
    cells: dict[str, Tensor], place: Tensor, n_expressed: Tensor, config: Config
) -> None:
    """Weigh the sample as all unexpressed genes, and put the end token behind it."""
    n_sample = _n_sample(n_expressed, config)
    start, end = _column(n_expressed, place), _column(n_expressed + n_sample, place)
    # divided on the host, so that no device rounds otherwise
    share = (config.n_genes - n_expressed).float() / n_sample.clamp(min=1)
    cells["weight"] = torch.where(
        (place >= start) & (place < end), _column(share, place), cells["weight"]
    )
    if config.end_token:
        cells["genes"].masked_fill_(place == end, config.n_genes)
        cells["weight"].masked_fill_(place == end, 1)


def _n_sample(n_expressed: Tensor, config: Config) -> Tensor:
    """Number of background genes of each cell."""
    most = config.n_background if config.tokens == "background" else 0
    return (config.n_genes - n_expressed).clamp(max=most)


def _n_tokens(n_expressed: Tensor, config: Config) -> Tensor:
    """Number of tokens of each cell that are not padding."""
    if config.tokens == "all":
        return torch.full_like(n_expressed, config.n_positions)
    end_token = config.end_token and config.tokens == "background"
    return n_expressed + _n_sample(n_expressed, config) + end_token


def _without_ones(
    cells: dict[str, Tensor], n_expressed: Tensor, config: Config
) -> dict[str, Tensor]:
    """Leave out the weights where every token stands for one gene, which the lengths tell."""
    n_tokens, n_sample = _n_tokens(n_expressed, config), _n_sample(n_expressed, config)
    all_zeros = config.tokens != "background" or bool(
        (n_sample == config.n_genes - n_expressed).all()
    )
    if all_zeros and bool((n_tokens == n_tokens[:1]).all()):
        cells.pop("weight", None)
    return cells


def _rows(n_expressed: Tensor, genes: Tensor) -> Tensor:
    """Cell of each expressed gene, (nnz,); the size spares waiting for a device."""
    rows = torch.arange(len(n_expressed), device=genes.device)
    return rows.repeat_interleave(_column(n_expressed, genes).flatten(), output_size=len(genes))


def _column(x: Tensor, genes: Tensor) -> Tensor:
    """Numbers of cells, moved from the host to the device of the genes: (b,) -> (b, 1)."""
    return x.to(genes.device, non_blocking=genes.is_cuda).unsqueeze(1)
