"""`brief`: all an agent needs to know now, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from autoresearch.cli.common import ceilings, combined, existing_study, say_if_idle
from autoresearch.cli.output import print_json, shorten
from autoresearch.constants import constants_of
from autoresearch.prose import tell, tell_briefly
from autoresearch.telling import tell_all
from autoresearch.untrusted import clean_block

TEXT_BYTES = 1650  # of the brief in JSON, where nobody asked for more


def brief(folder: Path, study: str | None, *, full: bool, code: bool, as_json: bool) -> None:
    """Print the brief on a study; with `full` all of it, with `code` the best code too."""
    opened = existing_study(folder, study)
    told = tell_all(opened, ceilings(opened), "", together=combined(opened))
    text = tell(told) if full else tell_briefly(told)
    if not as_json:
        typer.echo(text)
        for name, content in told.files.items() if code else ():
            typer.echo(f"\n--- {name} of {told.parent}\n{clean_block(content)}")
        say_if_idle(opened)
        return
    document: dict[str, Any] = {
        "study": opened.tag,
        "best": told.parent,
        "editable": list(told.files),
        "brief": text if full else shorten(text, TEXT_BYTES),
        "dispatching": opened.dispatched(),
        "cursor": opened.store.cursor(),
    }
    more: Mapping[str, Any] = {}
    if code:
        more = {"constants": constants_of(told.files, told.profile), "code": dict(told.files)}
    print_json({**document, **more})
