"""Upload a result directory to Hugging Face or ModelScope: what is complete, and only what is not there yet."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ggufkit import report
from ggufkit.core.errors import GgufkitError, InputError, SourceError
from ggufkit.core.hashing import sha256_file
from ggufkit.core.manifest import PARTIAL, SUFFIX, read_manifest
from ggufkit.core.progress import Reporter
from ggufkit.core.units import MIB
from ggufkit.hub import failures, huggingface, modelscope
from ggufkit.hub.listing import HubUnreachable, RemoteFile, Repo, RepoAbsent, defect
from ggufkit.hub.obtain import offline
from ggufkit.modelfile import grammar
from ggufkit.recipes.type_recipe import recipe_path
from ggufkit.report import results
from ggufkit.report.card import CARD, PLOT, is_edited, write_card
from ggufkit.steps.step import Workspace

_BESIDE = (*report.FILES, CARD, PLOT)
_REPO = re.compile(r"(ms:)?[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class Upload:
    """One file to be had by others. `there` tells whether the repository holds it already, byte for byte."""

    path: Path
    size_bytes: int
    there: bool


@dataclass(frozen=True)
class Parcel:
    """What an upload would do.

    Args:
        left_out: files that are not uploaded, with the reason.
        exists: whether there is such a repository, None where the hub was not reached.
        unreached: why not, in which case nothing counts as there.
    """

    repo: str
    uploads: tuple[Upload, ...]
    left_out: tuple[tuple[str, str], ...]
    exists: bool | None
    unreached: str = ""

    @property
    def missing(self) -> list[Upload]:
        """What is still to be uploaded, small files first."""
        return sorted((u for u in self.uploads if not u.there), key=lambda u: u.size_bytes)


def pack(
    root: Path, repo: str, *, replace_card: bool = False, look_only: bool = False, reporter: Reporter | None = None
) -> Parcel:
    """Find out what is complete and what the repository lacks. Tables and reports that are there, and the model card
    unless the user wrote it, are brought up to date first.

    Args:
        repo: OWNER/NAME on Hugging Face, or ms:OWNER/NAME.
        replace_card: send the card also where the repository's own was written or edited there.
        look_only: nothing will be sent: say what could be also where the hub does not answer.
        reporter: is warned of what cannot be read.

    Raises:
        InputError: the directory holds no results, or `repo` is no name.
        SourceError: the hub does not answer.
    """
    if _REPO.fullmatch(repo) is None:
        raise InputError(
            f"{repo!r} is not a repository.", hint="Write OWNER/NAME, or ms:OWNER/NAME for ModelScope."
        )
    rows = results.collect(root, reporter)
    report.refresh(rows, root)
    if not is_edited(root):
        write_card(rows, root, repo)
    complete, left_out = _judge(root)
    modelfiles, others = _modelfiles(root, {file.name for file in complete})
    left_out += others
    there, unreached = _look(repo, look_only=look_only)
    recipes = [recipe for file in complete if (recipe := recipe_path(file)).is_file()]
    files = [*complete, *recipes, *modelfiles, *sorted(root / name for name in _BESIDE if (root / name).is_file())]
    if not replace_card and _edited_there(root, repo, (there or {}).get(CARD)):
        files.remove(root / CARD)
        left_out.append(
            (CARD, "the one in the repository was written or edited there; --replace-card overwrites it")
        )
    uploads = [Upload(f, f.stat().st_size, _is_there(f, (there or {}).get(f.name))) for f in files]
    exists = None if unreached else there is not None
    return Parcel(repo, tuple(uploads), tuple(left_out), exists, unreached)


def _judge(root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The complete GGUF files, and the others with the reason why they are not."""
    complete, left_out = [], []
    for file in sorted(root.glob("*.gguf")):
        made = read_manifest(file)
        if made is None:
            left_out.append((file.name, "it has no manifest: ggufkit did not make it, or did not finish it"))
        elif sha256_file(file) != made.output.get("sha256"):
            left_out.append((file.name, "it was changed since it was made"))
        else:
            complete.append(file)
    left_out += [(file.name, "it is not finished") for file in sorted(root.glob(f"*.gguf{PARTIAL}"))]
    return complete, left_out


def _modelfiles(root: Path, complete: Collection[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """The Modelfiles of files that are uploaded, and the others with the reason why they are not."""
    ours, others = [], []
    for file in sorted(
        f for f in root.glob("Modelfile*") if f.is_file() and not f.name.endswith((SUFFIX, PARTIAL))
    ):
        base = _base_of(file)
        if base in complete:
            ours.append(file)
        else:
            others.append((file.name, f"it is for {base}, which is not uploaded" if base else "it names no file"))
    return ours, others


def _base_of(file: Path) -> str:
    """The file that a Modelfile's FROM names; "" if it cannot be read."""
    try:
        commands = grammar.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, InputError):
        return ""
    return next((c.args for c in commands if c.name == "model"), "").removeprefix("./")


def _edited_there(root: Path, repo: str, remote: RemoteFile | None) -> bool:
    """Whether the repository has a card that is neither this one nor the one that was sent last."""
    if remote is None:
        return False
    if _is_there(root / CARD, remote):
        _note_sent(root / CARD, repo)
        return False
    return not _is_there(_sent(root, repo), remote)


def _sent(root: Path, repo: str) -> Path:
    """A copy of the card as it was sent last to a repository."""
    return Workspace(root).private / "cards-sent" / f"{repo.replace(':', '-').replace('/', '--')}.md"


def _note_sent(card: Path, repo: str) -> None:
    copy = _sent(card.parent, repo)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(card, copy)


def _is_there(file: Path, remote: RemoteFile | None) -> bool:
    return remote is not None and (remote.sha256 or remote.git_sha1) is not None and defect(file, remote) is None


def _look(repo: str, *, look_only: bool) -> tuple[dict[str, RemoteFile] | None, str]:
    """What the repository holds; or nothing, and why the hub was not reached."""
    try:
        if offline():
            raise HubUnreachable("HF_HUB_OFFLINE is set.", hint="Unset it to upload.")
        return _remote_files(repo), ""
    except HubUnreachable as error:
        if look_only:
            return None, error.message
        hint = "Check the network or the proxy, and try again; ModelScope's repositories are called ms:OWNER/NAME."
        raise HubUnreachable(error.message, hint=error.hint if offline() else hint) from error


def _remote_files(repo: str) -> dict[str, RemoteFile] | None:
    """What the repository holds; None if there is no such repository yet."""
    hub = modelscope if repo.startswith("ms:") else huggingface
    try:
        return {file.path: file for file in hub.list_files(Repo(repo.removeprefix("ms:"))).files}
    except RepoAbsent:
        return None


def send(parcel: Parcel, reporter: Reporter, *, private: bool = False) -> str:
    """Upload what is missing, one commit a file, so that an interrupted upload goes on where it stopped.

    Args:
        private: how to make the repository, if there is none yet.

    Returns:
        The address of the repository.

    Raises:
        SourceError: the hub refuses.
    """
    on_modelscope, name = parcel.repo.startswith("ms:"), parcel.repo.removeprefix("ms:")
    host = modelscope.host() if on_modelscope else huggingface.host()
    upload = (_modelscope_sender if on_modelscope else _huggingface_sender)(name, private)
    total, done = sum(u.size_bytes for u in parcel.missing) / MIB, 0.0
    for item in parcel.missing:
        with reporter.step(f"Uploading {item.path.name} to {host}", total) as progress:
            progress.update(done, total, "MiB")
            try:
                upload(item.path)
            except Exception as error:
                raise _refused(error, f"the upload of {item.path.name} to {parcel.repo}", host) from error
            if item.path.name == CARD:
                _note_sent(item.path, parcel.repo)
            done += item.size_bytes / MIB
    return f"{host}/models/{name}" if on_modelscope else f"{host}/{name}"


def _huggingface_sender(name: str, private: bool) -> Callable[[Path], object]:
    from huggingface_hub import HfApi

    huggingface.quieten()
    api = HfApi(endpoint=huggingface.host())
    try:
        api.create_repo(name, private=private, exist_ok=True)
    except Exception as error:
        raise _refused(error, f"uploads to {name}", huggingface.host()) from error
    return lambda file: api.upload_file(
        path_or_fileobj=str(file), path_in_repo=file.name, repo_id=name, commit_message=f"Add {file.name}"
    )


def _modelscope_sender(name: str, private: bool) -> Callable[[Path], object]:
    api = modelscope.client()
    try:
        if not api.repo_exists(name, "model"):
            api.create_repo(name, "model", visibility="private" if private else "public")
    except Exception as error:
        raise _refused(error, f"uploads to {name}", modelscope.host()) from error

    def upload(file: Path) -> None:
        # The library prints what it does to standard output, which belongs to results.
        with contextlib.redirect_stdout(io.StringIO()):
            api.upload_file(name, "model", file, file.name, commit_message=f"Add {file.name}", disable_tqdm=True)

    return upload


def _refused(error: Exception, what: str, host: str) -> GgufkitError:
    if isinstance(error, GgufkitError):
        return error
    status = failures.status_of(error) or getattr(error, "status_code", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    message = f"{host} did not accept {what}: {f'HTTP {status}' if status else reason}."
    if status in (401, 403):
        hint = "Log in with a token that may write: `hf auth login` or HF_TOKEN; for ModelScope, MODELSCOPE_API_TOKEN."
        return SourceError(message, hint=hint)
    return SourceError(message, hint="Run the command again: what was uploaded is not sent again.")
