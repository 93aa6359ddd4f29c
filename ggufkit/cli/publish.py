"""The command that uploads: publish."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufkit.cli import options, parameter_types
from ggufkit.cli.options import grouped
from ggufkit.cli.terminal import console, emit, reporting, say, words
from ggufkit.core.errors import InputError, UsageError
from ggufkit.core.units import size

if TYPE_CHECKING:
    from ggufkit.publish import Parcel, Wanted


def _wanted(given: dict[str, Any]) -> Wanted:
    from ggufkit.publish import Selection, Wanted

    return Wanted(Selection(given["include"], given["exclude"]), given["base_model"])


def _is_meant(given: dict[str, Any]) -> bool:
    if given["yes"] and given["dry_run"]:
        raise UsageError("--yes uploads, --dry-run does not.", hint="Leave one of them out.")
    return bool(given["yes"])


@click.command("publish")
@click.argument("directory", metavar="DIR", type=parameter_types.DIRECTORY)
@click.argument("repo")
@grouped(
    "yes",
    _is_meant,
    click.option("--yes", is_flag=True, help="Upload; without it, only show what would be uploaded."),
    click.option(
        "--dry-run", is_flag=True, help="Only show what would be uploaded, and write nothing: the default."
    ),
)
@grouped(
    "wanted",
    _wanted,
    click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Only the GGUF files of this name, with what belongs to them: '*Q4_K_M*'. May be repeated.",
    ),
    click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="No files of this name: '*F16*', report.html. May be repeated.",
    ),
    click.option(
        "--base-model",
        metavar="OWNER/NAME",
        default="",
        help="The original, for the card, where the files' origin does not tell it.",
    ),
)
@click.option("--private", is_flag=True, help="Make a private repository, if it is new.")
@click.option("--replace-card", is_flag=True, help="Overwrite a README.md that was written or edited on the hub.")
@options.json_option
def publish_command(directory: Path, repo: str, yes: bool, wanted: Wanted, as_json: bool, **how: bool) -> None:
    """Upload what is complete in DIR to REPO: OWNER/NAME on Hugging Face, or ms:OWNER/NAME on ModelScope.

    \b
    Examples:
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF          look first
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF --yes    then upload
    """
    from ggufkit import publish

    if yes and not wanted.base_model:
        wanted = replace(wanted, base_model=_ask_for_base_model(directory))
    with reporting() as reporter:
        card = how["replace_card"]
        parcel = publish.pack(directory, repo, wanted, replace_card=card, look_only=not yes, reporter=reporter)
        if not as_json:
            _show_parcel(parcel)
        send = yes and bool(parcel.missing)
        address = publish.send(parcel, reporter, private=how["private"]) if send else None
    if as_json:
        emit(json.dumps(_as_json(parcel, uploaded=address is not None), indent=1, default=str) + "\n")
    elif address is not None:
        say(f"Uploaded: {address}")
    elif parcel.missing:
        say("Nothing was uploaded, and nothing written: repeat with --yes.")
        say(f"To edit the card before: ggufkit report {shlex.quote(str(directory))} --card --repo {repo}")


def _ask_for_base_model(directory: Path) -> str:
    """The original's name, which somebody at a terminal may know where the files do not tell; "" for no answer."""
    from ggufkit import publish

    if not _is_somebody_there() or publish.tells_base_model(directory):
        return ""
    asked = "Which model are these files made from? OWNER/NAME, or nothing to leave it out of the card"
    return str(click.prompt(asked, default="", show_default=False, err=True, value_proc=_model_name))


def _is_somebody_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _model_name(answer: str) -> str:
    from ggufkit.hub.addresses import require_repo

    try:
        return require_repo(answer.strip(), "a model's name") if answer.strip() else ""
    except InputError as error:
        raise click.BadParameter(f"{error.message} {error.hint}") from error


def _as_json(parcel: Parcel, *, uploaded: bool) -> dict[str, Any]:
    uploads = [
        {"name": u.path.name, "path": u.path, "size_bytes": u.size_bytes, "there": u.there} for u in parcel.uploads
    ]
    return {**vars(parcel), "uploads": uploads, "uploaded": uploaded}


def _show_parcel(parcel: Parcel) -> None:
    screen = console(stderr=False)
    for item in parcel.uploads:
        state = ("there already", "dim") if item.there else ("to upload", "green")
        screen.print(words(f"{item.path.name:<40} {size(item.size_bytes):>8}  ", state))
    for name, reason in parcel.left_out:
        screen.print(words((name, "yellow"), f" left out: {reason}."))
    if parcel.unreached:
        screen.print(f"What {parcel.repo} holds already is not known: {parcel.unreached}")
    where = parcel.repo if parcel.exists is not False else f"{parcel.repo}, which will be made"
    missing = parcel.missing
    if not missing:
        screen.print(f"{parcel.repo} has all of it already.")
        return
    screen.print(f"{len(missing)} files, {size(sum(u.size_bytes for u in missing))}, for {where}.")
