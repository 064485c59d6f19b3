"""What several commands need: the folder, its configuration, its study."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.cli.output import say
from autoresearch.errors import ConfigError, NotFoundError, UsageError
from autoresearch.study import Study, open_study, parse_run_id, state_folder
from autoresearch.target import FILE_NAME

if TYPE_CHECKING:
    from autoresearch.budget import Budget
    from autoresearch.config import Config
    from autoresearch.history import History
    from autoresearch.judging.learning import Learner


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
    """Return the human's word to the built-in agent, which has no shell; "" where there is none."""
    path = folder / config.instructions
    return _FOR_A_SHELL.sub("", path.read_text(errors="replace")) if path.is_file() else ""


_FOR_A_SHELL = re.compile(r"<!-- shell\b.*?(<!-- /shell -->\s*|\Z)", re.DOTALL)


def author_of(given: str | None) -> str:
    """Return who is at the command line: as they say, or as their environment shows."""
    said = given or os.environ.get("AUTORESEARCH_AUTHOR")
    name = said or ("claude-code" if os.environ.get("CLAUDECODE") else _user())
    if not name.isprintable() or name.isspace() or len(name) > 40:
        raise UsageError(f"{name[:60]!r} is no author's name", "use up to 40 letters, digits and dashes")
    return name


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "somebody"


def ceilings(opened: Study) -> Budget:
    """Return the ceilings a study has now: its last dispatcher's, or before the first the configuration's."""
    sessions = opened.store.sessions()
    return sessions[-1].budget if sessions else configuration(opened.folder).budget


def say_if_idle(opened: Study) -> None:
    """Tell a person that nothing is being dispatched, so that what waits goes on waiting."""
    if not opened.dispatched():
        say("nothing is being dispatched: `autoresearch up` starts the workers")


def experiment_of(text: str) -> str:
    """Return the experiment an id names; NotFoundError for what is no id."""
    experiment = parse_run_id(text)
    if experiment is None:
        raise NotFoundError(
            f"{text!r} is no experiment", "ids look like e0042; `autoresearch results` lists them"
        )
    return experiment


def learned(opened: Study, history: History) -> Learner | None:
    """Return what is to be learned of a study's runs; None before anything was repeated.

    ConfigError where the configuration is bad and says something of noise.
    """
    from autoresearch.judging.learning import Learner

    said = b"noise" in (opened.folder / FILE_NAME).read_bytes()
    noise = noise_of(opened, configuration(opened.folder).judging.noise if said else None)
    learner = Learner(opened.row.kinds[0], noise)
    return learner if learner.learn(history) else None


def combined(opened: Study) -> tuple[str, ...]:
    """Return the experiments whose ideas should be done anew in one, as far as that is not under way."""
    from autoresearch.judging.combining import Combiner

    history = opened.store.history()
    judging = configuration(opened.folder).judging
    learner = learned(opened, history) if judging.policy == "posterior" else None
    return Combiner(learner).together(history, opened.store.waiting_proposals()) if learner else ()


def noise_of(opened: Study, said: float | None) -> float | None:
    """Return how much a study's runs are expected to differ: as its configuration says, else its target."""
    from autoresearch.judging.statistics import expected_noise

    return said or expected_noise(opened.target.metric.name, opened.target.profile)


def plus_minus() -> str:
    """Return how this terminal can show plus or minus."""
    return "±" if sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf") else "+-"
