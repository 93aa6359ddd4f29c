"""Which groups of tensors are measured once more, and in which types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ggufkit.core.records import QuantType, Tensor
from ggufkit.llama.gguf import GgufHeader
from ggufkit.pipeline.probing import Found
from ggufkit.pipeline.recipe_engine import RecipeEngine, RecipeSources
from ggufkit.pipeline.refined_probes import Refining
from ggufkit.recipes.groups import Group
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.sensitivity import Sensitivities, sensitivities

EMBEDDING = "token_embd.weight"
LAYERS = [f"blk.{i}.attn_v.weight" for i in range(4)]
GROUPS = [Group("token_embd", (EMBEDDING,)), Group("attn_v, layers 0 to 3", tuple(LAYERS))]
ERRORS = {"Q4_K": 4.0, "Q8_0": 0.01}
CHOSEN = dict.fromkeys([EMBEDDING, *LAYERS], "Q8_0")


class Asked:
    """Stands for the measurements: each costs the same."""

    def __init__(self) -> None:
        self.combinations: list[Mapping[str, str]] = []

    def measure(self, combinations: Sequence[Mapping[str, str]], _text: Any, _doing: str) -> list[Found]:
        self.combinations += combinations
        return [Found(0.02, 0.0, 1.0) for _ in combinations]


def engine(refining: Refining | None) -> tuple[RecipeEngine, Asked]:
    made, asked = object.__new__(RecipeEngine), Asked()
    made.options, made.sources = RecipeOptions(), RecipeSources(None, cast(Any, None), refining)
    made.__dict__ |= {"probes": asked, "texts": (None, None), "coarse": lambda _name: "Q4_K",
                      "header": SimpleNamespace(by_name={})}  # fmt: skip
    return made, asked


def first() -> Sensitivities:
    lost = dict.fromkeys(CHOSEN, ERRORS)
    probed = {g.label: dict.fromkeys(g.tensors, "Q4_K") for g in GROUPS}
    return sensitivities(GROUPS, lost, probed, {"token_embd": 0.08, GROUPS[1].label: 0.01})


def test_a_group_is_divided_and_a_tensor_alone_is_measured_in_its_type() -> None:
    made, asked = engine(None)
    better = made._better(first(), CHOSEN)
    assert asked.combinations == [*({name: "Q4_K"} for name in LAYERS), {EMBEDDING: "Q8_0"}]
    assert better.of_tensor(EMBEDDING, "Q8_0") == pytest.approx(0.02)
    assert better.of_tensor(EMBEDDING, "Q4_K") > better.of_tensor(EMBEDDING, "Q8_0")


def test_what_will_be_refined_is_not_measured_as_it_will_not_be() -> None:
    made, asked = engine(Refining(cast(Any, SimpleNamespace()), cast(Any, None)))
    worth = made._better(first(), CHOSEN)
    assert asked.combinations[-1] == {EMBEDDING: "Q8_0"}
    assert made._better(worth, CHOSEN).of_tensor(EMBEDDING, "Q8_0") == pytest.approx(0.02)
    assert all(set(one.values()) == {"Q4_K"} for one in asked.combinations if EMBEDDING not in one)


def test_layers_that_no_text_runs_through_have_their_type_and_are_not_measured() -> None:
    made, _ = engine(None)
    run, *own = names = ("blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.1.nextn.eh_proj.weight")
    tensors = tuple(Tensor(name, (256, 256), "F16", 0, 1 << 16, 2 << 16) for name in names)
    made.__dict__ |= {
        "header": GgufHeader(Path("m.gguf"), 3, {}, tensors, 0, 32, 0), "tensors": tensors[:1],
        "_planned": lambda kind: dict.fromkeys(names, kind.name),
        "rounder": SimpleNamespace(n_bytes=lambda _tensor, kind: {"Q8_0": 320}[kind]),
    }  # fmt: skip
    assert made.settled == dict.fromkeys(own, "Q8_0")
    assert made.preset(QuantType("Q4_K_M", "")) == {run: "Q4_K_M"}
    assert made.fixed_bytes == 2 * 320
