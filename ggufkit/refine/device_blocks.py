"""Blocks read and written where the grid is: the fields of even `codecs`, columns first, as torch operations on bytes."""

from __future__ import annotations

import torch

from ggufkit.refine.codecs import Codec
from ggufkit.refine.fields import Field

_Planes = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def read_planes(codec: Codec, raw: torch.Tensor) -> _Planes:
    """Level, d, dmin, scale and least of a matrix, float32 (blocks of a row, values of a block, rows).

    Args:
        raw: uint8 (rows, bytes of a row).
    """
    assert isinstance(codec.level, Field)
    assert codec.d is not None
    raw = raw.view(len(raw), -1, codec.size).permute(1, 2, 0).contiguous()
    level, d = _read(codec.level, raw), _read_half(raw, codec.d)
    dmin = torch.zeros_like(d) if codec.dmin is None else _read_half(raw, codec.dmin)
    scale = _read(codec.scale, raw) if codec.scale else torch.ones_like(d)
    least = _read(codec.least, raw) if codec.least else torch.ones_like(scale)
    return level, d, dmin, scale, least


def write_planes(codec: Codec, planes: _Planes) -> torch.Tensor:
    """The inverse of `read_planes`."""
    assert isinstance(codec.level, Field)
    assert codec.d is not None
    level, d, dmin, scale, least = planes
    raw = torch.zeros((len(level), codec.size, level.shape[-1]), dtype=torch.uint8, device=level.device)
    _write(codec.level, level, raw)
    _write_half(raw, codec.d, d)
    if codec.dmin is not None:
        _write_half(raw, codec.dmin, dmin)
    if codec.scale:
        _write(codec.scale, scale, raw)
    if codec.least:
        _write(codec.least, least, raw)
    return raw.permute(2, 0, 1).flatten(1)


def _read(field: Field, raw: torch.Tensor) -> torch.Tensor:
    code, low = torch.zeros((), dtype=torch.uint8, device=raw.device), 0
    for part in field.bits:
        byte, shift = (torch.tensor(where, device=raw.device) for where in (part.byte, part.shift))
        piece = (raw[:, byte] >> shift[:, None].to(torch.uint8)) & ((1 << part.width) - 1)
        code = code | (piece << low)
        low += part.width
    return torch.tensor(field.values, dtype=torch.float32, device=raw.device)[code.int()]


def _write(field: Field, values: torch.Tensor, raw: torch.Tensor) -> None:
    codes = torch.from_numpy(field.codes).to(raw.device)
    code = codes[values.to(torch.int8).view(torch.uint8).int()]
    for part in field.bits:
        piece = code & ((1 << part.width) - 1)
        code = code >> part.width
        for shift in sorted(set(part.shift)):
            here = [i for i, own in enumerate(part.shift) if own == shift]
            bytes_ = torch.tensor([part.byte[i] for i in here], device=raw.device)
            raw[:, bytes_] |= piece[:, torch.tensor(here, device=raw.device)] << shift


def _read_half(raw: torch.Tensor, at: int) -> torch.Tensor:
    pairs = raw[:, at : at + 2].transpose(1, 2).contiguous()
    return pairs.view(torch.float16).transpose(1, 2).to(torch.float32).contiguous()


def _write_half(raw: torch.Tensor, at: int, values: torch.Tensor) -> None:
    halves = values.flatten(0, 1).to(torch.float16).contiguous()
    raw[:, at : at + 2] = halves.view(torch.uint8).view(*halves.shape, 2).transpose(1, 2)
