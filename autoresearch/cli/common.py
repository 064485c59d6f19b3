"""What several commands need: the folder, its configuration, its study."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.errors import ConfigError, NotFoundError
from autoresearch.study import Study, open_study, parse_run_id, state_folder
from autoresearch.target import FILE_NAME

if TYPE_CHECKING:
    from autoresearch.config import Config


def configuration(folder: Path) -> Config:
    """Return the folder's configuration."""
    from autoresearch.config import load

    return load(folder.absolute() / FILE_NAME)


def existing_study(folder: Path, tag: str | None) -> Study:
    """Open the study a reading command is about.

    Where to look is all that is read of the configuration, and only where it says something of that:
    loading and checking it takes longer than opening the study.
    """
    path = folder.absolute() / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"no {FILE_NAME} in {folder.absolute()}", "run `autoresearch init` to scaffold a study here"
        ) from None
    said = re.search(rb"^(study|state_dir)\s*:", text, re.MULTILINE) is not None
    config = configuration(folder) if said else None
    state = state_folder(folder.absolute(), config.state_dir if config else ".autoresearch")
    return open_study(folder.absolute(), state, tag or (config.study if config else None))


def read_instructions(folder: Path, config: Config) -> str:
    """Return the human's word to the agent; "" where there is none."""
    path = folder / config.instructions
    return path.read_text(errors="replace") if path.is_file() else ""


def experiment_of(text: str) -> str:
    """Return the experiment an id names; NotFoundError for what is no id."""
    experiment = parse_run_id(text)
    if experiment is None:
        raise NotFoundError(
            f"{text!r} is no experiment", "ids look like e0042; `autoresearch results` lists them"
        )
    return experiment


def plus_minus() -> str:
    """Return how this terminal can show plus or minus."""
    return "±" if sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf") else "+-"
