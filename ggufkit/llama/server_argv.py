"""How llama-server is started: typed parameters -> argv. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.llama.adapter import Adapter
from ggufkit.llama.argv import Argv, Compute, adapters


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

    def options(self) -> Argv:
        """The options of llama-server."""
        argv = ["--host", self.host, "--port", str(self.port), "--alias", self.name]
        argv += ["--jinja", "--no-ui", "--cors-origins", self.origins]
        argv += ["-lv", "4"] if self.verbose else []
        argv += ["-c", str(self.n_ctx), "-np", str(self.slots), "--kv-unified"]
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
