"""A model served: llama-server with all layers on the GPU that fit, a context that fits, and an end in good order."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core import failures, machine, service
from ggufkit.core.errors import BusyError, GgufError, InputError, ToolError, UsageError
from ggufkit.core.part_names import stem_of
from ggufkit.core.paths import cache_dir
from ggufkit.core.process import Surroundings, ToolOutput
from ggufkit.core.service import Service
from ggufkit.core.units import size
from ggufkit.core.values import Count
from ggufkit.llama import adapter, evaluates, load_errors, mtp, server_argv, server_tool
from ggufkit.llama.adapter import Adapter
from ggufkit.llama.argv import Compute
from ggufkit.llama.gguf import GgufHeader, read_gguf, read_header
from ggufkit.llama.kv_cache import require_possible
from ggufkit.llama.mmproj import of_model
from ggufkit.llama.server_argv import NOTHING_BESIDE, Beside, Listening
from ggufkit.serving import drafts, room
from ggufkit.serving.drafts import DraftOptions
from ggufkit.serving.endpoint import KEY, Endpoint, is_loopback
from ggufkit.serving.room import Cache
from ggufkit.steps import offload
from ggufkit.steps.load_check import called
from ggufkit.steps.session import Session

CONTEXT = Count("auto", 64)
"""How a context is written: a number of tokens, or for None the word."""
_ASK_EVERY_S = 0.1
_BOUND = "couldn't bind HTTP server socket"


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served.

    Args:
        name: what clients call the model, by default the file's name.
        api_key: what clients must show; one is made up where the address is not of this machine alone.
        ctx: tokens of context, None for what fits; `kv_type` likewise.
        slots: answers under way at once, which share the context.
        drafts: what guesses its tokens.
        repack: weights on the CPU are brought into an order in which it computes faster, but one token otherwise than
            several at once; what is drafted is verified without.
        verbose: the log tells what is loaded where, and much of each request.
        mmproj: what reads images or sound for the model, by default the file beside it that is called so.
        alone: without it.
        loras, control_vectors: adapters that change the model.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    name: str | None = None
    api_key: str | None = None
    ctx: int | None = None
    kv_type: str | None = None
    slots: int = 4
    drafts: DraftOptions = field(default_factory=DraftOptions)
    repack: bool = True
    verbose: bool = False
    mmproj: Path | None = None
    alone: bool = False
    loras: tuple[Adapter, ...] = ()
    control_vectors: tuple[Adapter, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What llama-server is told of a model and of the files `beside` it, and what its clients are."""

    program: Path
    gguf: Path
    endpoint: Endpoint
    listening: Listening
    cache: Cache
    threads: int
    backend: str
    beside: Beside = NOTHING_BESIDE

    def argv(self, ngl: int | None) -> list[str]:
        """The command line, with so many layers on the GPU."""
        compute = Compute(self.backend, ngl, self.threads)
        return server_argv.serve(self.program, self.gguf, self.listening, compute, self.beside)

    def environment(self) -> dict[str, str]:
        """Variables for it: the key, which a command line would show to others; where there is none, the user's own is
        for another server."""
        return {**offload.environment(), KEY: self.endpoint.api_key or ""}


@dataclass(frozen=True)
class Server:
    """A running server. `ngl` is the number of layers on the GPU that it was told, None for all that fit."""

    plan: Plan
    service: Service
    ngl: int | None

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached."""
        return self.plan.endpoint

    def wait(self) -> None:
        """Wait until it ends by itself, which it does not. Raises GgufkitError with the reason."""
        failures.require_success(self.service.wait(), f"serving {self.plan.gguf.name}")


def plan(gguf: Path, options: ServeOptions, session: Session) -> Plan:
    """What to serve a model with.

    Raises:
        GgufError, InputError: it is no model that answers or gives embeddings.
        UsageError: its KV cache cannot have the type that was asked for.
        ToolchainError: there is no llama-server, and none can be built.
        ResourceError: the memory that is free is too small for it.
    """
    embeds, header = require_possible_plan(gguf, options), read_header(gguf)
    gguf = header.path  # of parts the first
    program = server_tool.find(session.tools, session.reporter)
    beside = Beside(of_model(gguf, options.mmproj, alone=options.alone), options.loras, options.control_vectors)
    drafting = drafts.choose(header, options.drafts)
    draft = read_header(drafting.model) if drafting is not None and drafting.model is not None else None
    cache = room.choose(header, _free(header, session) - _size(beside), options.ctx, options.kv_type, draft)
    if not cache.fits:
        session.reporter.warn(
            f"A context of {cache.n_ctx} tokens takes {size(cache.n_bytes + cache.draft_bytes)} beside the model: more "
            "than is free."
        )
    key = options.api_key or (None if is_loopback(options.host) else secrets.token_urlsafe(24))
    endpoint = Endpoint(options.host, options.port, options.name or stem_of(gguf), key, embeds)
    listening = Listening(
        host=options.host, port=options.port, name=endpoint.model, slots=options.slots,
        n_ctx=cache.n_ctx, kv_type=cache.kv_type,
        embeds=embeds, pooling="mean" if embeds and not evaluates.is_pooled(header) else None,
        origins="localhost" if key is None else "*", verbose=options.verbose, drafting=drafting,
        repack=options.repack and drafting is None,
    )  # fmt: skip
    return Plan(program, gguf, endpoint, listening, cache, session.threads, session.tools.backend, beside)


def require_possible_plan(gguf: Path, options: ServeOptions) -> bool:
    """What is wrong with the file or the wishes, before tools are looked for, or built; whether it embeds.

    Raises:
        GgufError, InputError, UsageError: as `plan` raises them.
    """
    read_gguf(gguf)
    header = read_header(gguf)
    embeds = _require_served(header)
    of_model(gguf, options.mmproj, alone=options.alone)
    adapter.require_all_kin(options.loras, options.control_vectors, header)
    _require_one_key(options.api_key)
    if options.kv_type is not None:
        require_possible(header, options.kv_type, gguf.name)
    drafts.choose(header, options.drafts)
    return embeds


def _size(beside: Beside) -> int:
    """Bytes of all files beside the model."""
    changing = [one.file for one in (*beside.loras, *beside.control_vectors)]
    return sum(file.stat().st_size for file in (beside.mmproj, *changing) if file is not None)


def _require_one_key(key: str | None) -> None:
    """llama-server takes what is parted by commas for several keys."""
    if key is not None and (set(key) & set(',"') or not key.isprintable()):
        raise UsageError(
            "An API key has no commas, quotation marks or line ends.", hint="Leave --api-key out: one is made up."
        )


def _require_served(header: GgufHeader) -> bool:
    """Whether a model gives embeddings; else it answers. Raises InputError for one that does neither."""
    if mtp.drafts_alone(header):
        message = f"{header.path.name} holds MTP layers alone, which draft for a model."
        raise InputError(message, hint=f"Serve the model, and give this as its draft: --draft {header.path.name}.")
    if evaluates.embeds(header) and not evaluates.is_pooled(header) and not evaluates.is_encoder_of_text(header):
        message = (
            f"{header.path.name} ({header.architecture}) neither continues texts nor gives embeddings of them."
        )
        raise InputError(message, hint="Give the GGUF of a language model, or of one for embeddings.")
    return evaluates.embeds(header)


def _free(header: GgufHeader, session: Session) -> int:
    """Memory for the model and its cache: the GPUs' where the weights fit there, else that and the machine's own."""
    on_gpus = sum(gpu.memory_free for gpu in offload.gpus(session))
    return on_gpus if on_gpus > 2 * header.size_bytes else on_gpus + machine.free_memory()


@contextlib.contextmanager
def serving(wanted: Plan, ngl: int | None, session: Session, log: Path | None = None) -> Iterator[Server]:
    """Serve a model for the length of a context; with fewer layers on the GPU where its memory runs out.

    Args:
        log: where the server's output goes, by default into the cache, a file for each port.

    Raises:
        BusyError: something else listens there.
        InputError: the address is none of this machine.
        ToolError, DeviceMemoryError: the server did not come up.
    """
    require_free(wanted.endpoint.host, wanted.endpoint.port)
    gguf = read_gguf(wanted.gguf)
    to = log or cache_dir() / "logs" / f"serve-{wanted.endpoint.port}.log"
    with ExitStack() as stack:
        yield offload.with_fewer(
            lambda layers: stack.enter_context(_up(wanted, layers, session, to)), ngl, gguf, session
        )


@contextlib.contextmanager
def _up(wanted: Plan, ngl: int | None, session: Session, log: Path) -> Iterator[Server]:
    with service.running(wanted.argv(ngl), log, Surroundings(wanted.environment())) as running:
        with session.reporter.step(f"Loading {wanted.gguf.name}"):
            _wait_until_ready(running, wanted)
            _require_drafting(wanted, running.log)
        yield Server(wanted, running, ngl)


def _wait_until_ready(running: Service, wanted: Plan) -> None:
    while not _is_ready(wanted.endpoint):
        if (ended := running.ended()) is not None:
            raise _not_up(ended, wanted)
        time.sleep(_ASK_EVERY_S)
    if (ended := running.ended()) is not None:  # another one answered
        raise _not_up(ended, wanted)


def _is_ready(endpoint: Endpoint) -> bool:
    return _asked(endpoint, "health") is not None


def _asked(endpoint: Endpoint, path: str) -> bytes | None:
    """What the server says at a path of its own; None while it does not."""
    import requests

    with endpoint.session() as asking:
        try:
            said = asking.get(f"{endpoint.root}/{path}", timeout=5)
        except requests.RequestException:
            return None
        return said.content if said.status_code == 200 else None


def _require_drafting(wanted: Plan, log: Path) -> None:
    """llama-server serves all the same where nothing can draft: of some architectures it runs no MTP layers."""
    drafting = wanted.listening.drafting
    slots = _asked(wanted.endpoint, "slots") if drafting is not None else None
    if drafting is not None and slots is not None and not drafts.are_used(slots):
        what = "its MTP layers" if drafting.model is None else drafting.model.name
        message = f"llama-server does not draft for {wanted.gguf.name} with {what}."
        raise ToolError(message, hint="The log says why. Serve it without a draft.", log=log)


def _not_up(ended: ToolOutput, wanted: Plan) -> Exception:
    doing = f"loading {wanted.gguf.name}"
    if _BOUND in ended.text:
        return _busy(wanted.endpoint.host, wanted.endpoint.port)
    if ended.returncode == 0:
        return ToolError(f"{server_tool.NAME} ended while {doing}.", log=ended.log)
    if wanted.beside.mmproj is not None and (why := load_errors.why_no_projector(ended.text)) is not None:
        message = f"llama.cpp cannot load {called(wanted.beside.mmproj)}: {why}."
        hint = "Make it anew, or get that of this model; a newer llama.cpp may know it. --no-mmproj serves text alone."
        return GgufError(message, hint=hint, log=ended.log)
    return failures.explain(ended, doing)


def require_free(host: str, port: int) -> None:
    """Nobody listens at an address yet. Raises BusyError or InputError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _name, address in found:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _busy(host, port) from None
        reason = "you may not" if error.errno == errno.EACCES else error.strerror or str(error)
        hint = (
            "Give as --host an address of this machine (127.0.0.1, or 0.0.0.0 for all), and a --port above 1023."
        )
        raise InputError(f"Nothing can listen on {host}, port {port}: {reason}.", hint=hint) from None


def _busy(host: str, port: int) -> BusyError:
    hint = "End what listens there, or choose another --port."
    return BusyError(f"Port {port} of {host} is taken: another server listens there.", hint=hint)


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
