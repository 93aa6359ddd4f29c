"""The command that uploads: publish."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufkit.cli import options, parameter_types
from ggufkit.cli.terminal import console, emit, reporting, say, words
from ggufkit.core.units import size

if TYPE_CHECKING:
    from ggufkit.publish import Parcel


@click.command("publish")
@click.argument("directory", metavar="DIR", type=parameter_types.DIRECTORY)
@click.argument("repo")
@click.option("--yes", is_flag=True, help="Upload; without it, only show what would be uploaded.")
@click.option("--private", is_flag=True, help="Make a private repository, if it is new.")
@click.option("--replace-card", is_flag=True, help="Overwrite a README.md that was written or edited on the hub.")
@options.json_option
def publish_command(
    directory: Path, repo: str, yes: bool, private: bool, replace_card: bool, as_json: bool
) -> None:
    """Upload what is complete in DIR to REPO: OWNER/NAME on Hugging Face, or ms:OWNER/NAME on ModelScope.

    \b
    Examples:
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF          look first
        ggufkit publish ./out me/Qwen2.5-0.5B-GGUF --yes    then upload
    """
    from ggufkit import publish

    with reporting() as reporter:
        parcel = publish.pack(directory, repo, replace_card=replace_card, look_only=not yes, reporter=reporter)
        if not as_json:
            _show_parcel(parcel)
        address = publish.send(parcel, reporter, private=private) if yes and parcel.missing else None
    if as_json:
        emit(json.dumps({**asdict(parcel), "uploaded": address is not None}, indent=1, default=str) + "\n")
    elif address is not None:
        say(f"Uploaded: {address}")
    elif parcel.missing:
        say("Nothing was uploaded. Look at README.md and edit it if you like, then repeat with --yes.")


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
