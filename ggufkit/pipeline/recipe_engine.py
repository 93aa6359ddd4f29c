"""What a base's tensors lose in each type, by measurement, and the best types within a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from ggufkit.core.concurrency import worker_pool
from ggufkit.core.errors import UsageError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import write_atomically
from ggufkit.core.records import GgufFile, QuantType, Tensor
from ggufkit.llama import mtp
from ggufkit.llama.gguf import FLOAT_TYPES, GgufHeader, output_of, read_header
from ggufkit.llama.gguf_bytes import padded
from ggufkit.llama.importance import Importance, read_importance
from ggufkit.llama.libggml import LibGgml
from ggufkit.llama.patterns import is_found
from ggufkit.measure.logits import sample
from ggufkit.pipeline.probing import Found, Probing
from ggufkit.pipeline.refined_probes import Refining, refined_file
from ggufkit.pipeline.type_speeds import TypeSpeeds
from ggufkit.recipes import allowed
from ggufkit.recipes.groups import Group, group
from ggufkit.recipes.options import RecipeOptions
from ggufkit.recipes.probes import ProbeKit
from ggufkit.recipes.rounding import RefinedRounder, Rounder
from ggufkit.recipes.sensitivity import Sensitivities, Types, sensitivities
from ggufkit.recipes.solver import Option, Solution, fastest, solve
from ggufkit.steps import quantize
from ggufkit.steps.quantize import QuantizeOptions
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.corpus import Corpus

_LOW_BPW = 4.0
_BYTES_OF_TOKEN = 6
"""Enough that a sample has the tokens that it is drawn for."""


@dataclass(frozen=True)
class RecipeSources:
    """What a recipe is measured with.

    Args:
        imatrix: weighs the errors, and the rounding; None where there is none.
        calibration: the text that losses are measured on, never what the files are evaluated on.
        refining: what the file will be refined with; None if it will not.
    """

    imatrix: Path | None
    calibration: Corpus
    refining: Refining | None = None


class RecipeEngine:
    """Looks for the types of one base's tensors. What it measures is kept in the session's private directory."""

    def __init__(self, base: GgufFile, sources: RecipeSources, options: RecipeOptions, session: Session) -> None:
        self.base, self.sources, self.options, self.session = base, sources, options, session
        self.directory = session.workspace.private / f"recipes-{self._key}"
        self.probing = self._probing(self.kit)
        self.bpw = _LOW_BPW
        self.allowed_types = options.types_allowed or allowed.by_backend(session.tools.backend)

    @property
    def _key(self) -> str:
        matrix = sha256_file(self.sources.imatrix) if self.sources.imatrix is not None else ""
        said = [self.base.as_input().sha256, matrix, self.session.tools.identity]
        return hashlib.sha256("\n".join([*said, str(self.options.weigh)]).encode()).hexdigest()[:16]

    @cached_property
    def header(self) -> GgufHeader:
        """The base's header."""
        return read_header(self.base.path)

    @cached_property
    def importance(self) -> Importance:
        """What the matrix says of each column."""
        return {} if self.sources.imatrix is None else read_importance(self.sources.imatrix, self.header)

    @cached_property
    def tensors(self) -> Sequence[Tensor]:
        """Those whose type may change: what llama-quantize rounds in its finest type."""
        return [self.header.by_name[name] for name in self.preset(_named("Q8_0"))]

    @cached_property
    def groups(self) -> Sequence[Group]:
        """The tensors that are measured together."""
        return group(self.tensors, self.options.measured.groups)

    @cached_property
    def kit(self) -> ProbeKit:
        """Makes the files that are measured."""
        return ProbeKit(self.rounder, self.groups, self.directory)

    def _probing(self, kit: ProbeKit) -> Probing:
        return Probing(self.base, kit, self.options.n_ctx, self.options.measured.n_chunks, self.session)

    @cached_property
    def probes(self) -> Probing:
        """Measures groups in the types they are measured in: as a refinement leaves them, if there will be one."""
        refining = self.sources.refining
        if refining is None:
            return self.probing
        self.session.reporter.info("The types that groups are measured in are refined first, as the file will be.")
        names = {t.name for t in self.tensors if self._refines(t.name)}
        types = {t.name: self.coarse(t.name) if t.name in names else "Q8_0" for t in self.tensors}
        matrix, directory = self.sources.imatrix if self.options.weigh else None, self.directory / "refined"
        made = refined_file(self.base, types, matrix, refining, directory, self.session)
        place = directory / f"{made.path.stem}-{sha256_file(made.path)[:12]}"  # another refinement is another file
        plain = self.rounder
        rounder = RefinedRounder(
            plain.base, plain.library, plain.importance, plain.weigh, plain.threads, made, frozenset(names)
        )
        return self._probing(ProbeKit(rounder, self.groups, place))

    @property
    def n_measured(self) -> int:
        """Evaluations that were made."""
        return self.probing.n_measured + (self.probes.n_measured if self.probes is not self.probing else 0)

    def clear(self) -> None:
        """Remove the probes."""
        self.kit.clear()
        if self.probes is not self.probing:
            self.probes.kit.clear()

    @cached_property
    def rounder(self) -> Rounder:
        """The real quantizer over the base's tensors."""
        library = LibGgml(self.session.tools.dir)
        return Rounder(self.header, library, self.importance, self.options.weigh, self.session.threads)

    def preset(self, kind: QuantType) -> Types:
        """The types that llama-quantize gives to the tensors that it rounds, and a text runs through."""
        return {name: k for name, k in self._planned(kind).items() if name not in self.settled}

    @cached_property
    def settled(self) -> Types:
        """The types of the tensors that no text runs through: no measurement tells of them."""
        own = mtp.tensors(self.header)
        return {name: kind for name, kind in self._planned(_named("Q8_0")).items() if name in own} if own else {}

    def _planned(self, kind: QuantType) -> Types:
        matrix = self.sources.imatrix if self.options.weigh else None
        planned = quantize.plan(self.session.tools, self.base.path, kind, QuantizeOptions(matrix))
        return {tensor.name: tensor.after for tensor in planned.tensors if tensor.after not in FLOAT_TYPES}

    def n_bytes(self, types: Types) -> int:
        """What tensors take in a file in these types."""
        return sum(self._padded(self.header.by_name[name], kind) for name, kind in types.items())

    @cached_property
    def fixed_bytes(self) -> int:
        """What the other tensors take."""
        changing = {tensor.name for tensor in self.tensors}
        rest = [t for t in self.header.tensors if t.name not in changing and t.name not in self.settled]
        return sum(padded(t.n_bytes, self.header.alignment) for t in rest) + self.n_bytes(self.settled)

    def _padded(self, tensor: Tensor, type_name: str) -> int:
        return padded(self.rounder.n_bytes(tensor, type_name), self.header.alignment)

    @cached_property
    def texts(self) -> tuple[Corpus, Corpus]:
        """What losses are measured on, and what the results are compared on: of two halves of the calibration text."""
        n_bytes = self.options.measured.n_chunks * self.options.n_ctx * _BYTES_OF_TOKEN
        text = self.sources.calibration
        self.directory.mkdir(parents=True, exist_ok=True)
        if text.n_bytes < 2 * n_bytes:
            return text, text
        halves = sample.halves(text, self.directory)
        return tuple(sample.spread(half, n_bytes, half.path.with_suffix(".sample")) for half in halves)  # type: ignore[return-value]

    def know(self, types: Mapping[str, Iterable[str]]) -> None:
        """Look how far tensors are from the base in some types, unless that is known already."""
        # The coarse type of a tensor may be one that it can have.
        each = {name: dict.fromkeys(wanted) for name, wanted in types.items()}
        todo = {name: [k for k in wanted if k not in self.lost.get(name, {})] for name, wanted in each.items()}
        todo = {name: kinds for name, kinds in todo.items() if kinds}
        if not todo:
            return
        with (
            self.session.reporter.step("Errors of each tensor in each type") as progress,
            worker_pool(self.session.threads) as pool,
        ):
            jobs = {
                name: pool.submit(partial(self.rounder.lost, self.header.by_name[name], kinds))
                for name, kinds in todo.items()
            }
            for done, (name, job) in enumerate(jobs.items(), 1):
                self.lost.setdefault(name, {}).update(job.result())
                progress.update(done, len(jobs), "tensors")
        write_atomically(self._errors, json.dumps(self.lost))

    @cached_property
    def lost(self) -> dict[str, dict[str, float]]:
        """Of each tensor its weighed squared error in each type that was looked at."""
        try:
            kept: dict[str, dict[str, float]] = json.loads(self._errors.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept

    @property
    def _errors(self) -> Path:
        return self.directory / "tensor-errors.json"

    def _weighs(self, tensor: Tensor) -> bool:
        return self.options.weigh and tensor.name in self.importance

    def aim(self, bpw: float, types: Iterable[str] = ()) -> None:
        """Measure for files of about so many bits per weight.

        Args:
            types: may be chosen, too, where the user named none.
        """
        self._require_floors()
        self.bpw = bpw
        if not self.options.types_allowed:
            self.allowed_types = tuple(dict.fromkeys((*self.allowed_types, *types)))
        for known in ("first", "probes"):
            self.__dict__.pop(known, None)

    def _require_floors(self) -> None:
        for pattern, kind in self.options.at_least:
            if not any(is_found(pattern, tensor.name) for tensor in self.tensors):
                message = f"--at-least {pattern}={kind.lower()}: no tensor that is quantized has such a name."
                raise UsageError(message, hint="`ggufkit inspect` shows the kinds of tensors.")

    def coarse(self, name: str) -> str:
        """The type that a tensor is measured in."""
        return allowed.coarse(self.header.by_name[name], self.bpw)

    @cached_property
    def first(self) -> Sensitivities:
        """What each group is worth, by making one at a time coarse."""
        probed = {g.label: {name: self.coarse(name) for name in g.tensors} for g in self.groups}
        doing = f"What {len(self.groups)} groups of {len(self.tensors)} tensors are worth"
        found = self.probes.measure(list(probed.values()), self.texts[0], doing)
        measured = {g.label: one.kld for g, one in zip(self.groups, found, strict=True)}
        self.know({t.name: (self.coarse(t.name), *self._types(t)) for t in self.tensors})
        return sensitivities(self.groups, self.lost, probed, measured)

    def candidates(self, budget: int) -> list[tuple[Solution, Sensitivities]]:
        """The best types within so many bytes of tensors: by the first measurement, then by what corrects it."""
        found = [(self.solve(self.first, budget), self.first)]
        for _ in range(self.options.measured.rounds):
            solution, worth = found[-1]
            better = self._better(worth, solution.types)
            found.append((self.solve(better, budget), better))
        return found

    def solve(self, worth: Sensitivities, budget: int) -> Solution:
        """The best types within so many bytes by what is known. Raises UsageError where none are small enough."""
        return solve({tensor.name: self._options(tensor, worth) for tensor in self.tensors}, budget)

    def quick(self, best: Solution, worth: Sensitivities) -> Solution:
        """The fastest types of no more bytes that lose little more than the best ones: as much as is asked for."""
        if not self.options.speed:
            return best
        options = {t.name: self._options(t, worth, self.seconds) for t in self.tensors}
        return fastest(options, best.n_bytes, best, self.options.speed)

    def seconds_of(self, types: Types) -> float:
        """What a token's generation takes in these types, by the speeds that were measured."""
        return sum(self.seconds[kind] * self.header.by_name[name].n_elements for name, kind in types.items())

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """What a weight costs in a token's generation on this machine, in each type allowed."""
        timed = self.directory / "timed"
        kit = ProbeKit(self.rounder, self.groups, timed)
        speeds = TypeSpeeds(self.base, kit, self.tensors, replace(self.session, workspace=Workspace(timed)))
        return speeds.seconds_per_weight(sorted({kind for tensor in self.tensors for kind in self._types(tensor)}))

    def _options(
        self, tensor: Tensor, worth: Sensitivities, seconds: Mapping[str, float] | None = None
    ) -> list[Option]:
        name, each = tensor.name, seconds or {}
        return [
            Option(k, self._padded(tensor, k), worth.of_tensor(name, k), each.get(k, 0.0) * tensor.n_elements)
            for k in self._types(tensor)
        ]

    def _refines(self, name: str) -> bool:
        return self.sources.refining is not None and self.sources.refining.changes(name, output_of(self.header))

    def _types(self, tensor: Tensor) -> list[str]:
        types = allowed.possible(tensor, self.allowed_types, weighed=self._weighs(tensor))
        if self._refines(tensor.name):
            types = tuple(kind for kind in types if kind in allowed.REFINABLE)
        wanted = [kind for pattern, kind in self.options.at_least if is_found(pattern, tensor.name)]
        least = max((self._padded(tensor, kind) for kind in wanted), default=0)
        kept = [kind for kind in types if self._padded(tensor, kind) >= least]
        if types and not kept:
            message = f"No type allowed is as large as --at-least asks for {tensor.name}: {', '.join(types)}."
            raise UsageError(message, hint="Ask for less, or allow larger types with --types-allowed.")
        if not kept:
            message = (
                f"None of the types allowed can hold {tensor.name}, whose rows have {tensor.shape[0]} weights."
            )
            raise UsageError(message, hint="Allow more types with --types-allowed: q8_0 holds most shapes.")
        return kept

    def _better(self, worth: Sensitivities, types: Types) -> Sensitivities:
        """The dominating groups once more: divided into their tensors, and single ones in the types chosen for them."""
        ordered = sorted(worth.groups, key=lambda g: worth.of_group(g, types), reverse=True)
        top = ordered[: self.options.measured.again]
        single = [g for g in top if len(g.tensors) == 1]
        divided = _within(ordered, self.options.measured.again - len(single))
        better = self._split(worth, divided) if divided else worth
        return self._closer(better, types, single if divided else top)

    def _split(self, worth: Sensitivities, names: Sequence[str]) -> Sensitivities:
        """Groups measured tensor by tensor."""
        probed = {name: self.coarse(name) for name in names}
        alone = [{name: kind} for name, kind in probed.items()]
        found = self.probes.measure(alone, self.texts[0], "The dominating groups, tensor by tensor")
        return worth.split(probed, {name: one.kld for name, one in zip(names, found, strict=True)})

    def _closer(self, worth: Sensitivities, types: Types, groups: Sequence[Group]) -> Sensitivities:
        """Groups measured in the types that were chosen for them; what will be refined is known in its coarse one alone."""
        kept = [g for g in groups if not any(self._refines(name) for name in g.tensors)]
        other = [g for g in kept if any(types[name] != self.coarse(name) for name in g.tensors)]
        alone = [{name: types[name] for name in g.tensors} for g in other]
        found = self.probes.measure(alone, self.texts[0], "The dominating groups in the types chosen")
        return worth.closer(types, {g.label: one.kld for g, one in zip(other, found, strict=True)})

    @property
    def ends(self) -> tuple[int, int]:
        """Bytes of the tensors in the smallest types allowed, and in the largest."""
        sizes = [[self._padded(tensor, kind) for kind in self._types(tensor)] for tensor in self.tensors]
        return sum(map(min, sizes)), sum(map(max, sizes))

    def compared(self, choices: Sequence[Types]) -> list[Found]:
        """What choices lose on text that they were not chosen on."""
        return self.probing.measure(choices, self.texts[1], "Comparing recipes and presets")


def _within(groups: Sequence[Group], count: int) -> list[str]:
    """The tensors of the first groups of several that are no more together."""
    names = list[str]()
    for one in groups:
        if 1 < len(one.tensors) <= count - len(names):
            names += one.tensors
    return names


def _named(name: str) -> QuantType:
    return QuantType(name, "")
