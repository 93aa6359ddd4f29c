"""What is evaluated: a text, how much of it and how, by which tools. The same for all files of one command."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufkit.core import machine
from ggufkit.core.manifest import Notes, Params
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import Reporter
from ggufkit.core.records import F16, Conditions, GgufFile, Json
from ggufkit.llama import evaluates, logs
from ggufkit.llama.argv import Compute, Excerpt
from ggufkit.llama.gguf import read_header
from ggufkit.llama.memory import BATCH
from ggufkit.measure.kept_logits import KeptLogits
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.texts.corpus import Corpus

_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_START, _SHOWN = 1 << 20, 3
_CONTROL = 3  # llama.cpp's number of the tokens that text is not split into


@dataclass(frozen=True)
class EvalParams(Params):
    """What decides quality measurements besides the files and the tools.

    `batch` and `ubatch` are missing where the tool's own are used, `precision` where nobody asked for one, `kv_type` where
    the KV cache is F16, `special` where the text is plain.
    """

    n_ctx: int = 512
    n_chunks: int | None = None
    ngl: int | None = None
    backend: str = "cpu"
    batch: int | None = None
    ubatch: int | None = None
    precision: float | None = None
    kv_type: str = F16
    special: bool = False

    def to_params(self) -> dict[str, Json]:
        """What is there of it."""
        missing = {"batch", "ubatch"} if self.ubatch is None else set()
        missing |= {"precision"} if self.precision is None else set()
        missing |= {"kv_type"} if self.kv_type == F16 else set()
        missing |= set() if self.special else {"special"}
        return {key: value for key, value in super().to_params().items() if key not in missing}


@dataclass(frozen=True)
class EvalNotes(Notes):
    """What is known of quality measurements: seconds of the tool, the text as the user named it, and see `Order`."""

    tool_s: float = 0.0
    corpus: str = ""
    number: int = field(default=0, kw_only=True)

    def to_notes(self) -> dict[str, Json]:
        """Without a number where none was given."""
        return {key: value for key, value in super().to_notes().items() if key != "number" or value}


@dataclass(frozen=True)
class EvalOptions:
    """How much is evaluated: context in tokens, chunks of that many tokens (None: all of the text).

    `precision` is the relative standard error of mean KL divergence that is enough, None for all chunks.
    """

    n_ctx: int = 512
    n_chunks: int | None = None
    ngl: int | None = None
    precision: float | None = None

    def params(self, session: Session, kv_type: str = F16) -> dict[str, Json]:
        """What decides the result besides the files and the tools."""
        how, backend = offload.compute(session, self.ngl, 1, self.n_ctx), session.tools.backend
        params = EvalParams(
            self.n_ctx, self.n_chunks, self.ngl, backend, how.batch, how.ubatch, self.precision, kv_type
        )
        return params.to_params()


def ran_on(run: ToolOutput, session: Session) -> Conditions:
    """What a tool ran on, as it reported it."""
    placement = logs.parse_placement(run)
    return Conditions(
        backend=session.tools.backend if placement.layers_on_gpu else "cpu",
        device=placement.device or machine.cpu_name(),
        ngl=placement.layers_on_gpu,
        threads=session.threads,
        machine=machine.describe(),
        llama_cpp_commit=session.tools.commit,
    )


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, on its way through all that has a part in it.

    Args:
        corpus: the text that was asked for, which decides whether a result is fresh.
        sample: what is evaluated in its place, where a precision was asked for.
        sample_bytes: how many bytes the sample was to have, 0 without one.
        scorer: the program that compares and writes what each token gave, None for the toolchain's own, which does not.
        kept: where base logits stay for the next evaluation, None for nowhere.
    """

    corpus: Corpus
    options: EvalOptions
    session: Session
    sample: Corpus | None = None
    sample_bytes: int = 0
    scorer: Path | None = None
    kept: KeptLogits | None = None

    @property
    def text(self) -> Corpus:
        """The text that is evaluated."""
        return self.sample or self.corpus

    def params(self, gguf: GgufFile) -> dict[str, Json]:
        """What decides a file's result besides the files and the tools."""
        special: dict[str, Json] = {"special": True} if self.corpus.special else {}
        return self.options.params(self.session, gguf.kv_type) | special

    def key_of_base(self, base: GgufFile) -> str:
        """A short name of all that decides a base's logits."""
        told = {
            "params": self.params(base),
            "text": self.text.sha256,
            "base": base.sha256,
            "tools": self.session.tools.identity,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def excerpt(self) -> Excerpt:
        """The part of the text that the tool reads."""
        return Excerpt(self.text.path, self.options.n_ctx, self.options.n_chunks)

    def compute(self, gguf: GgufFile, threads: int) -> Compute:
        """How the tool computes with so many threads on a file.

        A context that is longer than its batch it would put together from several, with the logits in memory twice.
        """
        n_ctx = self.options.n_ctx
        how = replace(offload.compute(self.session, self.options.ngl, threads, n_ctx), kv_type=gguf.kv_type)
        return replace(how, batch=n_ctx) if n_ctx > BATCH else how

    def with_layers(self, ngl: int | None) -> Evaluation:
        """The same with so many layers on the GPU."""
        return replace(self, options=replace(self.options, ngl=ngl))

    def with_chunks(self, n_chunks: int) -> Evaluation:
        """The same with so many chunks."""
        return replace(self, options=replace(self.options, n_chunks=n_chunks))

    def conditions(
        self, run: ToolOutput, n_ctx: int | None, n_chunks: int | None, base_sha256: str | None = None
    ) -> Conditions:
        """What a measurement of quality depends on, as the tool reported it; `n_ctx` and `n_chunks` as evaluated."""
        return replace(
            ran_on(run, self.session),
            corpus_sha256=self.text.sha256,
            n_ctx=n_ctx,
            n_chunks=n_chunks,
            base_sha256=base_sha256,
            corpus=self.text.name,
        )


def warn_of_guess(gguf: Path, reporter: Reporter) -> None:
    """Where llama.cpp guesses how text is split, figures are those of its guess."""
    if evaluates.guesses_splitting(read_header(gguf)):
        reporter.warn(
            f"{gguf.name} does not say how its text is split into tokens ({evaluates.PRE}): llama.cpp guesses, and its "
            "figures may be worse than those of the model."
        )


def warn_of_special_tokens(gguf: Path, text: Corpus, reporter: Reporter) -> None:
    """llama-perplexity reads a chat's special tokens as plain text: the model meets what it never does in a chat."""
    if text.special or text.chats or not text.path.is_file():  # they are parsed, will be, or are planned only
        return
    with text.path.open(encoding="utf-8", errors="replace") as file:
        marks = set(_MARK.findall(file.read(_START)))
    if not marks:
        return
    metadata = read_header(gguf).metadata
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list):
        return
    special = sorted(str(t) for t, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL and t in marks)
    if special:
        shown = ", ".join(special[:_SHOWN]) + (" …" if len(special) > _SHOWN else "")
        reporter.warn(
            f"{text.name} holds special tokens of {gguf.name} ({shown}): llama-perplexity reads them as plain text, so "
            "its figures are not those of chats. Give chats as JSONL with `messages`."
        )


def warn_of_context(gguf: Path, contexts: Sequence[int], reporter: Reporter) -> None:
    """Beyond the context that a model was trained on its predictions fall apart, and those of its quantizations too."""
    trained = read_header(gguf).hparam("context_length")
    if beyond := [n_ctx for n_ctx in contexts if 0 < trained < n_ctx]:
        at = ",".join(map(str, beyond))
        reporter.warn(
            f"{gguf.name} was trained on a context of {trained:,} tokens: at --ctx {at} its figures are not reliable."
        )
