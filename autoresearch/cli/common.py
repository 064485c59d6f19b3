"""What several commands need: the folder, its configuration, its study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from autoresearch.config import FILE_NAME, Config, load
from autoresearch.errors import NotFoundError
from autoresearch.study import Study, open_study, parse_run_id, state_folder

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Tag = Annotated[str | None, typer.Option("--study", help="The study's tag. Default: the latest one.")]
Folder = Annotated[Path, typer.Option("--folder", "-C", help="The study's folder.", show_default="here")]
ExperimentId = Annotated[str, typer.Argument(help="An experiment, e0042, or one of its runs, e0042.1.")]
HERE = Path()


def configuration(folder: Path) -> Config:
    """Return the folder's configuration."""
    return load(folder.absolute() / FILE_NAME)


def states(folder: Path, config: Config | None = None) -> Path:
    """Return where the folder keeps its studies. Without a configuration: where it does by default."""
    if config is None and (folder / FILE_NAME).exists():
        config = configuration(folder)
    return state_folder(folder.absolute(), config.state_dir if config else ".autoresearch")


def existing_study(folder: Path, tag: str | None) -> tuple[Study, Config]:
    """Open the study a command is about, and its configuration."""
    config = configuration(folder)
    tag = tag or config.study or os.environ.get("AUTORESEARCH_STUDY")
    return open_study(folder.absolute(), states(folder, config), tag), config


def experiment_of(text: str) -> str:
    """Return the experiment an id names; NotFoundError for what is no id."""
    experiment = parse_run_id(text)
    if experiment is None:
        raise NotFoundError(
            f"{text!r} is no experiment", "ids look like e0042; `autoresearch results` lists them"
        )
    return experiment
