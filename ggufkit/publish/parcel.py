"""What an upload of a result directory would bring: what is complete and wanted, and is not there yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit import report
from ggufkit.core.progress import Reporter, SilentReporter
from ggufkit.core.records import ResultRow
from ggufkit.hub import huggingface, modelscope
from ggufkit.hub.addresses import Address, require_repo
from ggufkit.hub.listing import HubUnreachable, RemoteFile, Repo, RepoAbsent, defect, is_content
from ggufkit.hub.obtain import offline
from ggufkit.publish import models
from ggufkit.publish.chat import PARAMS, SYSTEM, TEMPLATE, Chat, chat_files
from ggufkit.publish.models import Model
from ggufkit.publish.selection import Selection
from ggufkit.report import card, results
from ggufkit.report.card import CARD, PLOT
from ggufkit.report.downloads import Shelf
from ggufkit.steps.step import Workspace

_ABOUT = (*report.FILES, CARD, PLOT)
_NO_BASE_MODEL = f"{CARD} names no base model, which the files do not tell: give it with --base-model OWNER/NAME."
_BASE_MODEL_NOT_WRITTEN = f"{CARD} was edited and stays as it is: write base_model into it yourself."
_EDITED_THERE = "the one in the repository was written or edited there; --replace-card overwrites it"


@dataclass(frozen=True)
class Upload:
    """One file to be had by others.

    Args:
        path: where it lies, or would lie; the repository has it by its name.
        there: whether the repository holds it already, byte for byte.
        content: of a file that is not on disk, None for one that is.
    """

    path: Path
    size_bytes: int
    there: bool
    content: bytes | None = field(default=None, repr=False)


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


@dataclass(frozen=True)
class Wanted:
    """What of a directory is to go up.

    Args:
        base_model: OWNER/NAME of the original, for the card; "" leaves it to what the files tell.
    """

    selection: Selection = field(default_factory=Selection)
    base_model: str = ""


def pack(
    root: Path,
    repo: str,
    wanted: Wanted | None = None,
    *,
    replace_card: bool = False,
    look_only: bool = False,
    reporter: Reporter | None = None,
) -> Parcel:
    """Find out what is complete and what the repository lacks. Tables and reports that are there, and the model card
    unless the user wrote it, are brought up to date first.

    Args:
        repo: OWNER/NAME on Hugging Face, or ms:OWNER/NAME.
        replace_card: send the card also where the repository's own was written or edited there.
        look_only: nothing will be sent: write nothing, and say what could be also where the hub does not answer.
        reporter: is warned of what cannot be read.

    Raises:
        InputError: the directory holds no results, or a part of one is missing or another's; `repo` or the base model is
            no name.
        UsageError: a pattern fits no file.
        SourceError: the hub does not answer.
    """
    asked, teller = wanted or Wanted(), reporter or SilentReporter()
    require_repo(repo)
    if asked.base_model:
        require_repo(asked.base_model, "a model's name, which --base-model takes")
    results.require_whole_sets(root)
    rows = results.collect(root, reporter)
    complete, left_out = models.find(root, teller)
    known = {*_ABOUT, TEMPLATE, SYSTEM, PARAMS, *(name for model in complete for name in _names(model))}
    asked.selection.require_used(known, left_out=[name for name, _ in left_out])
    there, unreached = _look(repo, look_only=look_only)
    remote = there or {}
    chosen = [model for model in complete if asked.selection.takes_model(model.names)]
    held = [m for m in complete if m in chosen or all(_upload(f, remote).there for f in m.files)]
    chat = chat_files({file: model.gguf for model in held for file in model.modelfiles}, teller)
    shelf = _shelf(repo, held, {*remote, *chat.files, *(name for model in chosen for name in _names(model))}, chat)
    about, remark = _about(rows, root, shelf, asked, look_only=look_only)
    if remark:
        teller.warn(remark)
    contents: dict[Path, bytes | None] = {
        **dict.fromkeys(file for model in chosen for file in model.all_files),
        **{root / name: content for name, content in {**chat.files, **about}.items()},
    }
    uploads = [_upload(f, remote, content) for f, content in contents.items() if asked.selection.takes(f.name)]
    foreign = (
        [] if replace_card else [u for u in uploads if _is_edited_there(u, repo, remote, look_only=look_only)]
    )
    left_out += [*chat.left_out, *_forgotten(chat, remote), *((u.path.name, _EDITED_THERE) for u in foreign)]
    exists = None if unreached else there is not None
    return Parcel(repo, tuple(u for u in uploads if u not in foreign), tuple(left_out), exists, unreached)


def _forgotten(chat: Chat, remote: Mapping[str, RemoteFile]) -> Iterator[tuple[str, str]]:
    """Files for Ollama that the repository has, and would no longer get: it goes on using them."""
    for name in (TEMPLATE, SYSTEM, PARAMS):
        if name in remote and name not in chat.files:
            yield name, "the repository has one that is not from here; remove it there if it should not be used"


def tells_base_model(root: Path) -> bool:
    """Whether the card of a directory will name the model that the files are made from."""
    return card.tells_base_model(results.collect(root), root)


def _names(model: Model) -> list[str]:
    return [*model.names, *(file.name for file in model.all_files)]


def _shelf(repo: str, held: Sequence[Model], there: set[str], chat: Chat) -> Shelf:
    files = {model.gguf.name: tuple(file.name for file in model.files) for model in held}
    return Shelf(Address(repo), files, frozenset(there), chat.why if TEMPLATE in chat.files else "", chat.prompt)


def _about(
    rows: Sequence[ResultRow], root: Path, shelf: Shelf, wanted: Wanted, *, look_only: bool
) -> tuple[dict[str, bytes | None], str]:
    """What tells of the models, with its content where that is not written; and what the user should know of it."""
    fresh: dict[str, bytes] = {
        name: text.encode(errors="backslashreplace")
        for name, text in report.refresh(rows, root, look_only=look_only).items()
    }
    remark = ""
    if card.is_edited(root):
        remark = _BASE_MODEL_NOT_WRITTEN if wanted.base_model else ""
    elif wanted.selection.takes(CARD):
        made = card.render_card(rows, root, shelf, wanted.base_model)
        remark = "" if made.names_base_model else _NO_BASE_MODEL
        fresh |= {CARD: made.text.encode(errors="backslashreplace")} | ({PLOT: made.plot} if made.plot else {})
        if not look_only:
            made.write(root)
    there = {name: None for name in _ABOUT if (root / name).is_file()}
    return {name: content if look_only else None for name, content in {**there, **fresh}.items()}, remark


def _upload(path: Path, remote: Mapping[str, RemoteFile], content: bytes | None = None) -> Upload:
    """A file as it would go up; one without a hash there counts as another."""
    size = path.stat().st_size if content is None else len(content)
    found = remote.get(path.name)
    same = found is not None and (found.sha256 or found.git_sha1) is not None and _is(found, path, content)
    return Upload(path, size, same, content)


def _is(remote: RemoteFile, path: Path, content: bytes | None) -> bool:
    return defect(path, remote) is None if content is None else is_content(content, remote)


def _is_edited_there(own: Upload, repo: str, remote: Mapping[str, RemoteFile], *, look_only: bool) -> bool:
    """Whether a file is a card, and the repository's is neither this one nor the one that was sent last."""
    if own.path.name != CARD or CARD not in remote:
        return False
    if own.there and not look_only:
        note_sent(own.path, repo)
    sent = _sent(own.path.parent, repo)
    return not own.there and not (sent.is_file() and is_content(sent.read_bytes(), remote[CARD]))


def _sent(root: Path, repo: str) -> Path:
    """A copy of the card as it was sent last to a repository."""
    return Workspace(root).private / "cards-sent" / f"{repo.replace(':', '-').replace('/', '--')}.md"


def note_sent(card_file: Path, repo: str) -> None:
    """Remember a card as it was sent."""
    copy = _sent(card_file.parent, repo)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(card_file, copy)


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
    address = Address(repo)
    hub = modelscope if address.on_modelscope else huggingface
    try:
        return {file.path: file for file in hub.list_files(Repo(address.name)).files}
    except RepoAbsent:
        return None
