"""The upload itself: one commit a file, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

from ggufkit.core.errors import GgufkitError, SourceError
from ggufkit.core.progress import Reporter
from ggufkit.core.units import MIB
from ggufkit.hub import failures, huggingface, modelscope
from ggufkit.hub.addresses import Address
from ggufkit.publish.parcel import Parcel, Upload, note_sent
from ggufkit.report.card import CARD


def send(parcel: Parcel, reporter: Reporter, *, private: bool = False) -> str:
    """Upload what is missing, one commit a file, so that an interrupted upload goes on where it stopped.

    Args:
        private: how to make the repository, if there is none yet.

    Returns:
        The address of the repository.

    Raises:
        SourceError: the hub refuses.
    """
    to = Address(parcel.repo)
    upload = (_modelscope_sender if to.on_modelscope else _huggingface_sender)(to.name, private)
    total, done = sum(u.size_bytes for u in parcel.missing) / MIB, 0.0
    for item in parcel.missing:
        with reporter.step(f"Uploading {item.path.name} to {to.host}", total) as progress:
            progress.update(done, total, "MiB")
            try:
                upload(item)
            except Exception as error:
                raise _refused(error, f"the upload of {item.path.name} to {parcel.repo}", to.host) from error
            if item.path.name == CARD:
                note_sent(item.path, parcel.repo)
            done += item.size_bytes / MIB
    return to.page


def _huggingface_sender(name: str, private: bool) -> Callable[[Upload], object]:
    from huggingface_hub import HfApi

    huggingface.quieten()
    api = HfApi(endpoint=huggingface.host())
    try:
        api.create_repo(name, private=private, exist_ok=True)
    except Exception as error:
        raise _refused(error, f"uploads to {name}", huggingface.host()) from error
    return lambda item: api.upload_file(
        path_or_fileobj=str(item.path) if item.content is None else item.content,
        path_in_repo=item.path.name,
        repo_id=name,
        commit_message=f"Add {item.path.name}",
    )


def _modelscope_sender(name: str, private: bool) -> Callable[[Upload], object]:
    api = modelscope.client()
    try:
        if not api.repo_exists(name, "model"):
            api.create_repo(name, "model", visibility="private" if private else "public")
    except Exception as error:
        raise _refused(error, f"uploads to {name}", modelscope.host()) from error

    def upload(item: Upload) -> None:
        name_there, content = item.path.name, item.path if item.content is None else item.content
        # The library prints what it does to standard output, which belongs to results.
        with contextlib.redirect_stdout(io.StringIO()):
            api.upload_file(
                name, "model", content, name_there, commit_message=f"Add {name_there}", disable_tqdm=True
            )

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
