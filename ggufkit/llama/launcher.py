"""Run the toolchain's unmodified converter in a process of its own, and read what it says there.

Around `convert_hf_to_gguf.py` it adds four things: a name for BPE pre-tokenizers that the converter's hash does not
know; and, while transformers is loaded anyway, a comparison of what config.json implies with the tensors, the ids that the
original tokenizer gives to a list of strings, and the logits of the original, computed beside the conversion.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ggufkit.core import errors
from ggufkit.core.errors import (
    CheckpointError,
    GgufkitError,
    TokenizerError,
    ToolOutputError,
    UnsupportedArchitecture,
)
from ggufkit.core.imports import uncollected
from ggufkit.core.jsonfile import parse_json, read_json
from ggufkit.core.process import ToolOutput
from ggufkit.llama import implied, pretokenizers, reference

_MARK = "ggufkit-error: "
_UNCONVERTIBLE = (
    "A file of the checkpoint is damaged or of another model, or it needs a newer llama.cpp: set GGUFKIT_LLAMA_CPP to its "
    "source directory. The log tells where the converter stopped."
)
_NOT_RESIZED = (
    "Tokens were added and the embedding was not resized: call resize_token_embeddings and save the model again, or take "
    "the base model's tokenizer."
)
_LACKING = (
    "Take the file from the model that this one was made from. If it is as it was published, a newer llama.cpp may do "
    "without: set GGUFKIT_LLAMA_CPP to its source directory."
)
_SETTING, _TENSOR = re.compile(r"\b(\w*hparams\w*|rope_parameters)\["), re.compile(r"(_experts|\w*tensors)\[")
"""Where the converter keeps what config.json says, and what the shards hold."""
_QUANTIZED = ("quantization_config", "quantization")  # of transformers, and of MLX
_PARTS_OF_QUANTIZED = ("_scale_inv", ".weight_scale", ".weight_packed", ".SCB", ".absmax", ".qweight", ".qzeros")
ORIGINAL = "Start from the original checkpoint in F32, F16 or BF16."
_TOWER = "vision_tower."
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM)


def main(argv: list[str]) -> int:
    """Convert; a failure that ggufkit can explain is printed as one marked JSON line, and exits with 1."""
    args = _parse(argv)
    try:
        with uncollected():
            converter = load_converter(args.source)
        explaining(args.checkpoint, partial(_run, converter, args))
    except GgufkitError as error:
        tell(error)
        return 1
    return 0


def tell(error: GgufkitError) -> None:
    """Print a failure for `error_in`."""
    told = _Told(type(error).__name__, error.message, error.hint)
    print(_MARK + json.dumps(asdict(told)), file=sys.stderr, flush=True)


def error_in(output: ToolOutput) -> GgufkitError | None:
    """The failure that a converter which ran through here explained; None if it did not."""
    marked = next((line for line in output.stderr.splitlines() if line.startswith(_MARK)), None)
    if marked is None:
        return None
    unreadable = partial(ToolOutputError, log=output.log)
    told = parse_json(marked.removeprefix(_MARK), _Told, "The converter's error", unreadable, hint="See the log.")
    kind = getattr(errors, told.kind, GgufkitError)
    known = isinstance(kind, type) and issubclass(kind, GgufkitError)
    return (kind if known else GgufkitError)(told.message, hint=told.hint, log=output.log)


@dataclass(frozen=True)
class _Told:
    """A failure on its way from the converter's process."""

    kind: str
    message: str
    hint: str | None = None


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ggufkit.llama.launcher")
    parser.add_argument("source", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--outfile", type=Path, required=True)
    parser.add_argument("--outtype", required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--pre", help="llama.cpp's name of the BPE pre-tokenizer")
    parser.add_argument(
        "--mmproj", action="store_true", help="what reads images or sound, instead of the text model"
    )
    parser.add_argument("--no-mtp", action="store_true", help="leave out the layers that predict further tokens")
    parser.add_argument("--skeleton", action="store_true", help="leave the tensor data out, as a hole in the file")
    parser.add_argument(
        "--shapes", type=Path, help="JSON object of the checkpoint's tensors: their shapes by name"
    )
    parser.add_argument("--probes", type=Path, help="JSON list of strings to tokenize with the original tokenizer")
    parser.add_argument("--ids", type=Path, help="where to write their ids")
    parser.add_argument("--logits", type=Path, help="where to write what the original predicts for the probe text")
    return parser.parse_args(argv)


def _run(converter: ModuleType, args: argparse.Namespace) -> None:
    refuse_own_code(args.checkpoint)
    _leave_out_scipy()

    def check() -> None:
        if args.shapes is not None:
            implied.require_implied(args.checkpoint, json.loads(args.shapes.read_text(encoding="utf-8")))

    with reference.beside(args.checkpoint, args.logits, lambda: _rows(args.checkpoint), check):
        _convert(converter, args)
    if args.probes is not None:
        texts = json.loads(args.probes.read_text(encoding="utf-8"))
        ids = original_ids(args.checkpoint, texts, special=pretokenizers.is_wordpiece(args.checkpoint))
        args.ids.write_text(json.dumps(ids), encoding="utf-8")


def _convert(converter: ModuleType, args: argparse.Namespace) -> None:
    model_class = _text_model(converter)
    name_pretokenizer(model_class, args.checkpoint, args.pre)
    if args.mmproj:
        know_shorter_names(next(c for c in model_class.__mro__ if "map_tensor_name" in vars(c)))
    if args.skeleton:
        _leave_out_data()
    options = [f"--outfile={args.outfile}", "--outtype", args.outtype, "--model-name", args.model_name]
    options += ["--mmproj"] if args.mmproj else []
    options += ["--no-mtp"] if args.no_mtp and not args.mmproj and _leaves_out(converter, args.checkpoint) else []
    sys.argv = [str(converter.__file__), str(args.checkpoint.absolute()), *options]
    try:
        converter.main()
    except SystemExit as ended:
        if ended.code:
            raise _refusal(args.checkpoint, "the images or the sound of " if args.mmproj else "") from None


def _leaves_out(converter: ModuleType, checkpoint: Path) -> bool:
    """Whether the converter can leave out what predicts further tokens; where it cannot, it knows no such layers, or must
    take them along.
    """
    try:
        config = converter.ModelBase.load_hparams(checkpoint, False)
        known = converter.get_model_class(converter.get_model_architecture(config, converter.ModelType.TEXT))
    except (AttributeError, NotImplementedError):  # an older converter; or it will say so itself
        return False
    return bool(getattr(known, "supports_mtp_export", False))


def explaining(checkpoint: Path, work: Callable[[], None]) -> None:
    """Whatever stops the converter is an error that ggufkit explains, unless it is the machine's fault or its own."""
    try:
        work()
    except (GgufkitError, MemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise
        traceback.print_exc()
        raise not_convertible(checkpoint, error) from error


def not_convertible(checkpoint: Path, error: Exception) -> GgufkitError:
    """What an exception of the converter says of the checkpoint; its traceback is in the log."""
    if isinstance(error, NotImplementedError) and "quant method" in str(error).lower():
        return CheckpointError(f"{checkpoint} is quantized already: {error}.", hint=ORIGINAL)
    if str(error).startswith("Can not map tensor"):
        name = str(error).removeprefix("Can not map tensor ")
        config = read_json(checkpoint / "config.json", dict[str, Any], CheckpointError)
        if any(config.get(key) for key in _QUANTIZED):
            message = f"{checkpoint} is quantized already: llama.cpp's converter knows no {name} of it."
            return CheckpointError(message, hint=ORIGINAL)
        if name.strip("'").endswith(_PARTS_OF_QUANTIZED):
            message = (
                f"{checkpoint} holds {name}, a part of a quantized matrix, and its config.json tells of none."
            )
            return CheckpointError(
                message, hint=f"Take the config.json that was saved with the weights. {ORIGINAL}"
            )
        return CheckpointError(
            f"llama.cpp's converter knows no {name} of {checkpoint}.",
            hint="A tensor was renamed, or the architecture has variants that llama.cpp lacks.",
        )
    if (
        "tokenizer" in str(error)
        and checkpoint.is_dir()
        and not any((checkpoint / f).is_file() for f in _TOKENIZERS)
    ):
        message = f"{checkpoint} has no tokenizer: neither tokenizer.json nor tokenizer.model."
        return TokenizerError(
            message, hint="Take the tokenizer's files from the model that this one was made from."
        )
    stopped_at = "".join(str(frame.line) for frame in traceback.extract_tb(error.__traceback__)[-1:])
    if isinstance(error, AssertionError) and "max(" in stopped_at:
        message = f"The tokenizer of {checkpoint} has ids that the model's vocabulary lacks."
        return TokenizerError(message, hint=_NOT_RESIZED)
    if isinstance(error, KeyError) and (lacking := _lacking(error, stopped_at)) is not None:
        return CheckpointError(f"{checkpoint} lacks {lacking}, which llama.cpp's converter needs.", hint=_LACKING)
    said = " ".join(str(error).split())[:300]
    why = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return CheckpointError(f"llama.cpp's converter cannot convert {checkpoint}: {why}.", hint=_UNCONVERTIBLE)


def _lacking(error: KeyError, stopped_at: str) -> str | None:
    """What was looked up in vain, by the line of the converter that did so; None where that does not tell."""
    key = str(next(iter(error.args), ""))[:200]
    if _SETTING.search(stopped_at) and re.search(f"[\"']{re.escape(key)}[\"']", stopped_at):
        return f'"{key}" in its config.json'
    return f"the tensor {key}" if _TENSOR.search(stopped_at) else None


@dataclass(frozen=True)
class _Named:
    """The part of a config.json that names the architecture."""

    architectures: list[str] = field(default_factory=list)


def _refusal(checkpoint: Path, part: str) -> GgufkitError:
    """The converter exits, rather than raises, for one reason: it lacks the architecture, or a `part` of it."""
    config = read_json(checkpoint / "config.json", _Named, CheckpointError)
    names = ", ".join(config.architectures) or "?"
    return UnsupportedArchitecture(
        f"llama.cpp's converter does not know {part}the architecture {names} of {checkpoint}.",
        hint="A newer llama.cpp may: set GGUFKIT_LLAMA_CPP to its source directory.",
    )


def load_converter(source: Path) -> ModuleType:
    """Import `convert_hf_to_gguf.py`. Its own `gguf-py` must win over an installed `gguf`."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", source / "convert_hf_to_gguf.py")
    if spec is None or spec.loader is None:
        raise TokenizerError(f"{source} holds no converter.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _text_model(converter: ModuleType) -> Any:
    """The class whose method names the pre-tokenizer; older converters keep it in the script itself."""
    base = sys.modules.get("conversion.base")
    home = converter if hasattr(converter, "TextModel") or base is None else base
    return getattr(home, "TextModel", None) or home.Model


def refuse_own_code(checkpoint: Path) -> None:
    """Some of the converter's classes let transformers run code that a checkpoint brings along: none is run."""
    from transformers import dynamic_module_utils

    def get_class_in_module(class_name: str, *_: object, **_more: object) -> None:
        message = f"{checkpoint} needs code of its own, {class_name}, which is never run."
        raise UnsupportedArchitecture(message, hint="Give a model that transformers knows without further code.")

    dynamic_module_utils.get_class_in_module = get_class_in_module


def _leave_out_scipy() -> None:
    """transformers imports it with every model, a third of a second, for losses of object detectors alone."""
    from transformers import utils

    utils.is_scipy_available = lambda: False


def name_pretokenizer(model_class: Any, checkpoint: Path, forced: str | None) -> None:
    """Let tokenizer.json name the pre-tokenizer when its hash is unknown; `forced` overrides both."""
    by_hash = model_class.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        if forced is not None:
            return forced
        try:
            return str(by_hash(self, tokenizer))
        except NotImplementedError:
            return pretokenizers.identify(checkpoint / "tokenizer.json")

    model_class.get_vocab_base_pre = get_vocab_base_pre


def know_shorter_names(any_model: Any) -> None:
    """transformers 5 saves a SigLIP tower without the `vision_model.` that llama.cpp's converter knows in its names."""
    by_name = any_model.map_tensor_name

    def map_tensor_name(self: Any, name: str, *suffixes: Any, **more: Any) -> str:
        try:
            return str(by_name(self, name, *suffixes, **more))
        except ValueError:
            longer = name.replace(_TOWER, f"{_TOWER}vision_model.", 1)
            if f"{_TOWER}vision_model." in name or longer == name:
                raise
            return str(by_name(self, longer, *suffixes, **more))

    any_model.map_tensor_name = map_tensor_name


def _leave_out_data() -> None:
    """Write a GGUF's whole header, then a hole as long as the tensor data: what a dry run needs, in no space."""
    import gguf

    def write_tensors_to_file(self: Any, *, progress: bool = False) -> None:  # noqa: ARG001 - gguf's signature
        self.write_ti_data_to_file()
        for file, tensors in zip(self.fout, self.tensors, strict=True):
            self.write_padding(file, file.tell())
            sizes = [self.ggml_pad(info.nbytes, self.data_alignment) for info in tensors.values()]
            file.truncate(file.tell() + sum(sizes))

    gguf.GGUFWriter.write_tensors_to_file = write_tensors_to_file


def original_ids(checkpoint: Path, texts: list[str], *, special: bool = False) -> list[list[int]]:
    """Token ids that the checkpoint's own tokenizer file gives, without added special tokens unless these are asked for.

    The file is read as it is: transformers may replace what tokenizer.json says by what a model type usually has.
    """
    from tokenizers import Tokenizer

    fast = checkpoint / "tokenizer.json"
    if fast.is_file():
        pretokenizers.read_tokenizer(fast)
        tokenizer = Tokenizer.from_file(str(fast))
        # Encoders often say in the file how long their inputs are made.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return [list(tokenizer.encode(text, add_special_tokens=special).ids) for text in texts]
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(str(checkpoint / "tokenizer.model"))
    return [list(pieces.encode(text)) for text in texts]


def _rows(checkpoint: Path) -> list[list[int]]:
    """The probe text in the original's tokens, without and with BOS: which it is the GGUF will say."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    ids = original_ids(checkpoint, [reference.PROBE.read_text(encoding="utf-8")])[0][: reference.n_tokens(config)]
    bos = config.get("bos_token_id")
    return [ids, [bos, *ids[:-1]]] if isinstance(bos, int) else [ids]


def end(code: int) -> None:
    """End at once: to take torch and transformers down again costs half a second, and what was written is closed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
