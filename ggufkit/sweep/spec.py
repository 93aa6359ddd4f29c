"""What a sweep file says. Pure; `sweep_file` reads it, `matrix` makes cells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.core.marked import Place, Source


@dataclass(frozen=True)
class Word:
    """A name or a pattern, and where it stands."""

    text: str
    at: Place = field(compare=False)


@dataclass(frozen=True)
class Given:
    """The value of an option of `build`, and where it stands."""

    value: object
    at: Place = field(compare=False)


@dataclass(frozen=True)
class Setting:
    """What is said of builds, by the file as a whole, by a profile, or of one model; the latter counts where both say it.

    Args:
        types, variants: what is made; None where nothing is said of it.
        options: of `spellings.OPTIONS`, calibration, corpora and tasks among them.
    """

    types: tuple[Word, ...] | None = None
    variants: tuple[Word, ...] | None = None
    options: Mapping[str, Given] = field(default_factory=dict)

    def under(self, closer: Setting) -> Setting:
        """This one, with what another says that is closer to the model."""
        return Setting(
            closer.types or self.types, closer.variants or self.variants, {**self.options, **closer.options}
        )


@dataclass(frozen=True)
class Entry:
    """A model.

    Args:
        name: what its directory is called, no other model's.
        model: as `build` takes it; a path is absolute.
        typed: as the file has it, which patterns are held against, too.
    """

    name: str
    model: str
    typed: str
    at: Place = field(compare=False)
    setting: Setting = Setting()


@dataclass(frozen=True)
class Selection:
    """Files that are left out, or made besides: patterns, of which those of a kind that is not named are met by all.

    What is included besides names its types and variants instead.
    """

    at: Place = field(compare=False)
    models: tuple[Word, ...] = ()
    types: tuple[Word, ...] = ()
    variants: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A way to do the whole sweep, by name: "" where there are none.

    Args:
        models: patterns of the models that it is for; all where there are none.
    """

    name: str = ""
    setting: Setting = Setting()
    models: tuple[Word, ...] = ()
    exclude: tuple[Selection, ...] = ()
    include: tuple[Selection, ...] = ()


@dataclass(frozen=True)
class Queue:
    """What a job of a batch system asks for; each of them runs one worker.

    Args:
        partition: or queue; None for the system's own default.
        account: whose time it is.
        time: wall time, as the system writes it: "4:00:00".
        gpus, cores, memory_bytes: of a worker.
        jobs: workers at most.
        extra: further directives of the system, "--constraint=h100".
        prologue: lines of shell before the worker starts, "module load cuda".
        interface: of the network, "ib0".
        scratch: a directory of the machine that the job runs on.
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    gpus: int = 0
    cores: int = 1
    memory_bytes: int | None = None
    jobs: int = 1
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    scratch: str | None = None


@dataclass(frozen=True)
class Cluster:
    """Where a sweep runs, as far as the file says it.

    Args:
        workers: processes on this machine; None where nothing is said.
        queues: by the name of the batch system: "slurm", "pbs" …
    """

    workers: int | None = None
    queues: Mapping[str, Queue] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A sweep file.

    Args:
        file: its path.
        source: its text, and whose faults it shows.
        out: where results go.
        profiles: in the file's order; one without a name where there are none.
    """

    file: Path
    source: Source = field(repr=False, compare=False)
    out: Path
    models: tuple[Entry, ...]
    setting: Setting
    profiles: tuple[Profile, ...] = (Profile(),)
    exclude: tuple[Selection, ...] = ()
    include: tuple[Selection, ...] = ()
    cluster: Cluster = Cluster()
