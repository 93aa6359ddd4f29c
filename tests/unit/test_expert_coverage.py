"""How many tokens reached each expert, by an importance matrix."""

from __future__ import annotations

from ggufkit.steps.expert_coverage import FEW, coverage


def test_every_expert_of_every_layer_counts_once() -> None:
    seen = {
        "blk.0.attn_q.weight": (900.0,),
        "blk.0.ffn_gate_exps.weight": (100.0, 50.0, 40.0),
        "blk.0.ffn_down_exps.weight": (100.0, 50.0, 40.0),
        "blk.10.ffn_down_exps.weight": (0.0, FEW - 1.0, float(FEW)),
        "blk.10.ffn_down_shexp.weight": (900.0,),
    }
    found = coverage(seen)
    assert found is not None
    assert (found.n_experts, found.least, found.median) == (6, 0, 40)
    assert (found.unseen, found.few) == (("layer 10, expert 0",), ("layer 10, expert 1",))
    assert found.sentence.endswith("half of them 40 or more; 1 saw none; 1 fewer than 32")
    assert found.warning is not None
    assert found.warning.startswith(
        "Of 6 experts 1 saw no token (layer 10, expert 0) and 1 saw fewer than 32 tokens (layer 10, expert 1) of the"
    )


def test_where_all_saw_enough_nothing_is_warned_of() -> None:
    found = coverage({"blk.0.ffn_up_exps.weight": (64.0, 1204.0)})
    assert found is not None
    assert found.warning is None
    assert found.sentence == "2 experts saw 64 tokens or more each, half of them 1,204 or more"


def test_without_experts_or_in_the_older_format_nothing_is_told() -> None:
    assert coverage({"blk.0.attn_q.weight": (5.0,)}) is None
    assert coverage({"blk.0.ffn_up_exps.weight": (5.0,)}) is None
