"""What many files have in common: their obs columns, and the donors over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from scbert_cll._checks import people
from scbert_cll._checks.words import listed
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.scan import Scan


def merged_columns(scans: Sequence[Scan], keys: Sequence[str]) -> dict[str, list[str] | None]:
    """Categories of each obs column over all files, None where it holds numbers."""
    columns = {key: [one for one in scans if key in one.record["columns"]] for key in keys}
    if absent := [key for key, having in columns.items() if not having]:
        raise KeyError(
            f"obs_columns names {listed(absent)}, which none of the {len(scans)} files has in obs."
        )
    merged: dict[str, list[str] | None] = {}
    for key, having in columns.items():
        kinds = {scanned.file: scanned.record["columns"][key] for scanned in having}
        numbers = [file for file, categories in kinds.items() if categories is None]
        texts = [file for file, categories in kinds.items() if categories]
        if numbers and texts:
            raise ValueError(
                f"obs[{key!r}] holds numbers in {listed(numbers, 3)} and text in "
                f"{listed(texts, 3)}; make it one kind, or leave it out of obs_columns."
            )
        used = {name for categories in kinds.values() for name in categories or ()}
        order = _one_order([scanned.record["order"][key] for scanned in having])
        merged[key] = None if numbers else [name for name in order if name in used]
    return merged


def _one_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """Categories in the order of the files, where these agree on one; else sorted."""
    longest = max(orders, key=len)
    places = [[longest.index(c) if c in longest else -1 for c in order] for order in orders]
    if all(-1 not in place and place == sorted(place) for place in places):
        return list(longest)
    return people.sorted_names({name for order in orders for name in order})


def cells_of_donors(scans: Iterable[Scan], donor_key: str | None) -> dict[str, int]:
    """Kept cells of each donor over all files; warns of those left out, and of donors alike."""
    cells, left_out = Counter[str](), Counter[str]()
    for scanned in scans:
        cells.update(scanned.record["donors"])
        left_out.update(scanned.record["not_donors"])
    where = f"obs[{donor_key!r}]"
    people.warn_of_not_donors(left_out, people.people_of(cells)[1], where)
    people.warn_of_alike([name for name, n in cells.items() if n], where)
    return {name: n for name, n in sorted(cells.items()) if n}


def donors_per_part(donors: Iterable[str], val_donors: Sequence[str]) -> dict[str, list[str]]:
    """Donors with a cell, by part."""
    train, val = PARTS
    return {train: sorted(set(donors).difference(val_donors)), val: sorted(val_donors)}
