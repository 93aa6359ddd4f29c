"""The types of a file's tensors for a terminal; beside `inspect`, which is to answer at once, so with few imports."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from ggufkit.recipes.type_map import lines


def types_table(types: Mapping[str, str]) -> Table:
    """A line for each kind of tensor, with the types of its layers: `attn_v  Q6_K ×8, Q5_K ×16`.

    Args:
        types: by the tensor's name, as `TypeRecipe.types` has them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensors", no_wrap=True)
    table.add_column("types, by layer", overflow="fold")
    for kind, runs in lines(types):
        table.add_row(kind, runs)
    return table
