"""TABLES of options: how each is written, on the command line and in Python alike; which group of a request has it."""

from __future__ import annotations

from collections.abc import Mapping

from ggufkit.core import machine, values, variants
from ggufkit.core.values import Choice, Count, Fraction, Kind, SomeOf, Whole, Wholes
from ggufkit.llama import backends, kv_cache, mmproj
from ggufkit.measure.logits import strategy
from ggufkit.recipes.effort import EFFORTS

_POSITIVE = Whole(1, values.MOST)

KINDS: Mapping[str, Kind] = {
    "model": values.TEXT,
    "types": values.NAMES,
    "variants": values.NAMES,
    "out": values.PATH,
    # where a model comes from
    "hub": Choice(("auto", "hf", "modelscope")),
    "allow_pickle": values.SWITCH,
    "lora": values.UserPath(file=False),
    "allow_requantize": values.SWITCH,
    # how it is converted
    "base_type": Choice(("f16", "bf16", "f32")),
    "pre": values.TEXT,
    "allow_token_mismatch": values.SWITCH,
    "allow_losses": values.SWITCH,
    "check_function": values.SWITCH,
    "mmproj": Choice((mmproj.AUTO, *mmproj.TYPES, mmproj.NONE)),
    "mtp": values.SWITCH,
    "force_toolchain": values.SWITCH,
    # what llama-quantize is told besides a type
    "tensor_type": values.TEXTS,
    "tensor_type_file": values.FILE,
    "output_tensor_type": values.TEXT,
    "token_embedding_type": values.TEXT,
    "leave_output_tensor": values.SWITCH,
    "pure": values.SWITCH,
    "override_kv": values.TEXTS,
    "prune_layers": values.NUMBERS,
    # types by measurement
    "effort": Choice(tuple(EFFORTS)),
    "types_allowed": values.SOME_NAMES,
    "at_least": values.TEXTS,
    "target": values.TEXT,
    "curve": values.SWITCH,
    "for_gptq": values.TEXT,
    "recipe": values.FILE,
    # calibration
    "calibration": values.TEXTS,
    "calibration_samples": _POSITIVE,
    "calibration_field": values.TEXT,
    "process_output": values.SWITCH,
    "seed": Whole(),
    "imatrix": values.FILE,
    # AWQ and refining
    "awq_engine": Choice(variants.AWQ_ENGINES),
    "awq_objective": Choice(variants.AWQ_OBJECTIVES),
    "awq_dtype": Choice(variants.AWQ_DTYPES),
    "awq_per_type": values.SWITCH,
    "for_imatrix": values.SWITCH,
    "sequential": values.SWITCH,
    "act_order": Choice(("auto", "on", "off")),
    "include_output": values.SWITCH,
    "tune_norms": values.SWITCH,
    "distill": values.SWITCH,
    "device": Choice(("auto", "cpu", "cuda")),
    # what is measured
    "base": values.FILE,
    "quantized": values.FILE,
    "eval": values.SWITCH,
    "corpus": values.TEXTS,
    "ctx": Wholes(8, values.MOST),
    "kv_types": SomeOf(kv_cache.TYPES),
    "chunks": Count("all", 2),
    "kld": values.SWITCH,
    "precision": Fraction(),
    "speed": Fraction(),
    "scratch_limit": values.SIZE,
    "strategy": Choice(strategy.STRATEGIES),
    "bench": values.SWITCH,
    "bench_reps": Whole(1, 1000),
    "smoke": values.SWITCH,
    "metrics": values.SOME_NAMES,
    "tasks": values.SOME_NAMES,
    "tasks_samples": Count("all", 2),
    "variant_option": values.TEXTS,
    "split": values.SIZE,
    "fits": values.SIZE,
    "fits_ctx": Whole(1, None),
    "fits_kv": Choice(kv_cache.TYPES),
    # how the tools run
    "backend": Choice(backends.CHOICES),
    "ngl": Count("auto", 0),
    "threads": Whole(1, machine.MOST_THREADS),
    "force": values.SWITCH,
    "explain": values.SWITCH,
    # how a model is served
    "host": values.TEXT,
    "port": Whole(1, 65535),
    "name": values.TEXT,
    "api_key": values.TEXT,
    "kv_type": Choice(("auto", *kv_cache.TYPES)),
    "slots": Whole(1, 256),
    "no_mmproj": values.SWITCH,
    "draft": values.FILE,
    "draft_max": Whole(1, 64),
    "draft_min": Whole(0, 64),
}
"""Every option by its name in Python: that of the command line with `_` for `-`."""


OPTIONS: Mapping[str, tuple[str, str]] = {
    "hub": ("source", "hub"),
    "allow_pickle": ("source", "allow_pickle"),
    "lora": ("source", "lora"),
    "allow_requantize": ("source", "allow_requantize"),
    "base_type": ("conversion", "out_type"),
    "pre": ("conversion", "pre"),
    "allow_token_mismatch": ("conversion", "allow_token_mismatch"),
    "allow_losses": ("conversion", "allow_losses"),
    "check_function": ("conversion", "check_function"),
    "mmproj": ("conversion", "mmproj"),
    "mtp": ("conversion", "mtp"),
    "force_toolchain": ("conversion", "force_toolchain"),
    "tensor_type": ("overrides", "tensor_type"),
    "tensor_type_file": ("overrides", "tensor_type_file"),
    "output_tensor_type": ("overrides", "output_tensor_type"),
    "token_embedding_type": ("overrides", "token_embedding_type"),
    "leave_output_tensor": ("overrides", "leave_output_tensor"),
    "pure": ("overrides", "pure"),
    "override_kv": ("overrides", "override_kv"),
    "prune_layers": ("overrides", "prune_layers"),
    "effort": ("recipes", "effort"),
    "types_allowed": ("recipes", "types_allowed"),
    "calibration": ("calibration", "text"),
    "calibration_samples": ("calibration", "samples"),
    "calibration_field": ("calibration", "field"),
    "process_output": ("calibration", "process_output"),
    "seed": ("calibration", "seed"),
    "imatrix": ("calibration", "imatrix"),
    "awq_engine": ("scaling", "engine"),
    "awq_objective": ("scaling", "objective"),
    "awq_dtype": ("scaling", "dtype"),
    "awq_per_type": ("scaling", "per_type"),
    "distill": ("refinement", "distill"),
    "eval": ("evaluation", "quality"),
    "corpus": ("evaluation", "corpus"),
    "ctx": ("evaluation", "ctx"),
    "kv_types": ("evaluation", "kv_types"),
    "chunks": ("evaluation", "chunks"),
    "kld": ("evaluation", "kld"),
    "precision": ("evaluation", "precision"),
    "scratch_limit": ("evaluation", "scratch_limit"),
    "strategy": ("evaluation", "strategy"),
    "bench": ("evaluation", "bench"),
    "bench_reps": ("evaluation", "bench_reps"),
    "smoke": ("evaluation", "smoke"),
    "backend": ("run", "backend"),
    "ngl": ("run", "ngl"),
    "threads": ("run", "threads"),
    "force": ("run", "force"),
    "explain": ("run", "explain"),
    "variant_option": ("methods", "variant_option"),
    "metrics": ("evaluation", "metrics"),
    "tasks": ("evaluation", "tasks"),
    "tasks_samples": ("evaluation", "tasks_samples"),
    "split": ("parts", "split"),
    "fits": ("report", "fits"),
    "fits_ctx": ("report", "fits_ctx"),
    "fits_kv": ("report", "fits_kv"),
}
"""Every option of a build that belongs to a group of `request`: the group, and its field there."""


def read(name: str, given: object, default: object = ...) -> object:
    """The value of an option; its default, None among them, is taken as it is.

    Raises:
        UsageError: it is none.
    """
    return given if given is default or given == default else values.read(name, KINDS[name], given)
