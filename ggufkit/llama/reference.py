"""What a checkpoint computes under transformers: logits in float32, to compare a converted GGUF's with.

Computed beside the conversion, in a fork of its process, which has imported transformers anyway; or in a process of its
own: `python -m ggufkit.llama.reference CHECKPOINT TOKENS.json OUTPUT.npy`. Code of a checkpoint is never run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufkit.core.errors import CheckpointError

PROBE = Path(__file__).with_name("probe.txt")
"""A text of more than 256 tokens in any vocabulary."""

_N_TOKENS = 128
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx")
_AS_FLOATS = "quantization_config"
_PR_SET_PDEATHSIG = 1
_NICE = 5

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Evaluated:
    """What became of an evaluation.

    Args:
        rows: the token ids that were evaluated, one list for each block of the saved logits.
        missing: weights that the model needs and the checkpoint does not have.
        mismatched: weights of other sizes than the model needs, each with both in words.
        why_not: why transformers could not evaluate it.
        refused: message and hint of a CheckpointError that was raised before it was evaluated.
    """

    rows: Rows = ()
    missing: Sequence[str] = ()
    mismatched: Sequence[str] = ()
    why_not: str | None = None
    refused: tuple[str, str] | None = None


def n_tokens(config: Mapping[str, Any]) -> int:
    """How many tokens are evaluated: 128, and fewer where the model's context is shorter. The second half counts."""
    contexts = [int(config[name]) for name in _CONTEXTS if isinstance(config.get(name), int)]
    return max(8, min([_N_TOKENS, *contexts]))


@contextlib.contextmanager
def beside(
    checkpoint: Path, output: Path | None, rows: Callable[[], Rows], first: Callable[[], None]
) -> Iterator[None]:
    """Evaluate while the context's work is done, in a fork of this process; after it where a process cannot be forked.

    Args:
        output: where the logits go, None to compute none.
        rows: gives the tokens to evaluate.
        first: a check of the checkpoint that raises CheckpointError. It is done before the evaluation, where that is done
            beside the work, too: what it finds then stops the work at its end, whatever became of that.
    """
    if output is None:
        first()
        yield
    elif sys.platform != "linux":
        first()
        yield
        evaluate(checkpoint, rows, output)
    else:
        with _fork(lambda passed: evaluate(checkpoint, rows, output, passed), first, checkpoint, output):
            yield


@contextlib.contextmanager
def _fork(
    work: Callable[[Callable[[], None]], object], first: Callable[[], None], checkpoint: Path, output: Path
) -> Iterator[None]:
    """Work in a fork, which is given `first` so that work which fails here need not wait for more than that."""
    _import_its_config(checkpoint)  # both need it
    parent, (checked, passed) = os.getpid(), os.pipe()

    def check() -> None:
        first()
        os.write(passed, b".")

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # none of the threads that libraries have begun holds a lock
        child = os.fork()
    if child == 0:
        _work_and_exit(lambda: work(check), parent)
    os.close(passed)
    try:
        yield
    except BaseException:
        if os.read(checked, 1):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(checked)
        os.waitpid(child, 0)
        if (refused := read_evaluated(output).refused) is not None:
            raise CheckpointError(refused[0], hint=refused[1])


def _work_and_exit(work: Callable[[], object], parent: int) -> None:
    """A fork's life: silent, polite, and never longer than its parent's."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.nice(_NICE)
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            work()
    finally:
        os._exit(0)


def _import_its_config(checkpoint: Path) -> None:
    from transformers import AutoConfig

    with contextlib.suppress(Exception):  # the converter does without, and says so
        AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)


def evaluate(
    checkpoint: Path, rows: Callable[[], Rows], output: Path, first: Callable[[], None] = lambda: None
) -> None:
    """Write logits (rows, tokens, vocabulary) in float32 as .npy, of the second half of the tokens but the last.

    What happened is written beside them, as `output` with the suffix .json.
    """
    try:
        first()
        ended = _evaluate(checkpoint, rows(), output)
    except CheckpointError as error:
        ended = Evaluated(refused=(error.message, error.hint or ""))
    except Exception as error:  # whatever transformers meets in a checkpoint
        first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
        ended = Evaluated(why_not=f"{type(error).__name__}: {first_line}"[:300])
    _told(output).write_text(json.dumps(asdict(ended)), encoding="utf-8")


def read_evaluated(output: Path) -> Evaluated:
    """What an evaluation left beside `output`; one that ended without a word could not be done."""
    try:
        return Evaluated(**json.loads(_told(output).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Evaluated(why_not="its process ended early, perhaps for want of memory")


def remove(output: Path) -> None:
    """Remove what an evaluation left."""
    output.unlink(missing_ok=True)
    _told(output).unlink(missing_ok=True)


def _told(output: Path) -> Path:
    return output.with_suffix(".json")


def _evaluate(checkpoint: Path, rows: Rows, output: Path) -> Evaluated:
    import numpy as np
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
    how = _with_floats(config)
    model, info = _kind(config).from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True,
        use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **how,
    )  # fmt: skip
    if _AS_FLOATS in how:
        model = model.float()  # some of it has the dtype that config.json names
    if (unlike := _unlike(checkpoint, model)) is not None:
        return Evaluated(why_not=unlike)
    if info["missing_keys"] or info["mismatched_keys"]:
        mismatched = sorted(map(_in_words, info["mismatched_keys"]))
        return Evaluated(missing=sorted(info["missing_keys"]), mismatched=mismatched)
    with torch.inference_mode():
        logits = model.eval()(torch.tensor(rows), use_cache=False).logits
        np.save(output, logits[:, len(rows[0]) // 2 : -1].float().numpy())
    return Evaluated(rows)


def _kind(config: Any) -> Any:
    """What loads a checkpoint: as a model of text, else as one of images and text, which computes texts alike."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if known else AutoModelForImageTextToText


def _with_floats(config: Any) -> dict[str, Any]:
    """What makes transformers compute with floats where weights are quantized, as llama.cpp does: on its own it would
    multiply in eight bits, which a CPU cannot, or round the inputs, too."""
    from transformers import FineGrainedFP8Config, Mxfp4Config

    how = getattr(config, "quantization_config", None)
    if not isinstance(how, dict):
        return {}
    method = how.get("quant_method")
    makers = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
    if method in makers:
        return {_AS_FLOATS: makers[method](dequantize=True)}
    if method != "compressed-tensors":
        return {}
    for group in how["config_groups"].values():
        if group.get("input_activations") is not None:
            group |= {"input_activations": None, "format": group.get("format") or how.get("format")}
    return {"config": config}


def _unlike(checkpoint: Path, model: Any) -> str | None:
    """Why a loaded model is not the one that the checkpoint names."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    loaded, named = type(model).__name__, config.get("architectures", ["?"])[0]
    return None if loaded == named else f"it has {loaded} for text, not {named}"


def _in_words(misfit: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    if isinstance(misfit, str):  # transformers 4
        return f"{misfit} has another shape than is needed"
    name, *shapes = misfit
    there, wanted = (" x ".join(map(str, shape)) for shape in shapes)
    return f"{name} has the shape {there} where {wanted} is needed"


def main(argv: Sequence[str]) -> None:
    """Evaluate the tokens of a JSON file."""
    checkpoint, tokens, output = (Path(a) for a in argv)
    evaluate(checkpoint, lambda: json.loads(tokens.read_text(encoding="utf-8")), output)


if __name__ == "__main__":
    main(sys.argv[1:])
