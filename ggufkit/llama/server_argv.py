"""How llama-server is started: typed parameters -> argv. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.llama.adapter import Adapter
from ggufkit.llama.argv import Argv, Compute, adapters


@dataclass(frozen=True)
class Drafting:
    """What guesses tokens that the model then verifies.

    Args:
        model: another GGUF; None for the model's own layers that predict further tokens.
        mtp: it drafts with such layers.
        most, least: tokens that are guessed at once; None for the tool's own numbers.
    """

    model: Path | None
    mtp: bool
    most: int | None = None
    least: int | None = None

    def options(self) -> Argv:
        """The options of llama-server."""
        argv = ["-md", str(self.model.absolute())] if self.model is not None else []
        argv += ["--spec-type", "draft-mtp" if self.mtp else "draft-simple"]
        argv += ["--spec-draft-n-max", str(self.most)] if self.most is not None else []
        return [*argv, "--spec-draft-n-min", str(self.least)] if self.least is not None else argv


@dataclass(frozen=True)
class Listening:
    """How llama-server serves a model: where, by which name, with which context.

    Args:
        n_ctx: tokens of context that all `slots` answers under way share.
        kv_type: the type of keys and values: "f16".
        embeds: it gives embeddings instead of answers.
        pooling: how the embeddings of tokens become one, None as the model says.
        origins: web pages that a browser lets ask it: "*" for all.
        verbose: its log says where layers are, and much of each request.
        drafting: what guesses its tokens; None where nothing does.
        repack: weights on the CPU are brought into an order in which it computes faster; in that, several tokens at once
            come out otherwise than one by one, by as much as decides near ties.
    """

    host: str
    port: int
    name: str
    n_ctx: int
    kv_type: str
    slots: int
    embeds: bool = False
    pooling: str | None = None
    origins: str = "localhost"
    verbose: bool = False
    drafting: Drafting | None = None
    repack: bool = True

    def options(self) -> Argv:
        """The options of llama-server."""
        argv = ["--host", self.host, "--port", str(self.port), "--alias", self.name]
        argv += ["--jinja", "--no-ui", "--cors-origins", self.origins]
        argv += ["-lv", "4"] if self.verbose else []
        argv += ["-c", str(self.n_ctx), "-np", str(self.slots), "--kv-unified"]
        argv += self.drafting.options() if self.drafting is not None else []
        argv += [] if self.repack else ["--no-repack"]
        if not self.embeds:
            return [*argv, "-ctk", self.kv_type, "-ctv", self.kv_type]
        # An embedding is computed of all of its text at once.
        argv += ["--embeddings", "-b", str(self.n_ctx), "-ub", str(self.n_ctx)]
        return argv if self.pooling is None else [*argv, "--pooling", self.pooling]


@dataclass(frozen=True)
class Beside:
    """Files that a model is served with: `mmproj` reads images or sound for it, the others change it."""

    mmproj: Path | None = None
    loras: tuple[Adapter, ...] = ()
    control_vectors: tuple[Adapter, ...] = ()

    def options(self) -> Argv:
        """The options of llama-server."""
        argv = [] if self.mmproj is None else ["--mmproj", str(self.mmproj)]
        return [*argv, *adapters("--lora", self.loras), *adapters("--control-vector", self.control_vectors)]

    def resolved(self) -> Beside:
        """The same from wherever the server is started."""
        loras, vectors = (
            tuple(replace(one, file=one.file.resolve()) for one in given)
            for given in (self.loras, self.control_vectors)
        )
        return Beside(self.mmproj and self.mmproj.resolve(), loras, vectors)


NOTHING_BESIDE = Beside()


def serve(
    program: Path, model: Path, listening: Listening, compute: Compute, beside: Beside = NOTHING_BESIDE
) -> Argv:
    """llama-server: a model behind OpenAI's protocol, with the file's own chat template."""
    return [str(program), "-m", str(model), *beside.options(), *listening.options(), *compute.options()]
