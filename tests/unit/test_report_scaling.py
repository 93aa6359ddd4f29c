"""What reports say of AWQ's scales."""

from __future__ import annotations

from ggufkit.report import scaling


def test_kinds_are_told_by_what_the_scales_leave_of_their_error() -> None:
    tensors: dict[str, tuple[float | None, float]] = {
        "blk.0.ffn_down.weight": (40.0, 0.9),
        "blk.0.attn_q.weight": (9000.0, 0.4),
        "blk.1.attn_q.weight": (1000.0, 0.5),
        "blk.2.attn_q.weight": (3100.0, 0.3),
        "blk.1.ffn_down.weight": (None, 1.0),
        "blk.0.attn_output.weight": (None, 0.7),
    }
    said = scaling.in_words("awq", tensors)
    assert "of awq leave of the rounding error" in said
    assert said.endswith(
        "attn_q 40.0%, 3,100 times, attn_output 70.0%, ffn_down 95.0%, 40 times; "
        "at most they help blk.2.attn_q.weight, 30.0%, 3,100 times."
    )


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert not scaling.in_words("awq", {})
    assert not scaling.in_words("awq", {"output.weight": (3.0, 0.5)})
