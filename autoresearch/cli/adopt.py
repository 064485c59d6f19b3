"""`init --from`: make a study of a checkout of karpathy/autoresearch, where it stands.

Writes autoresearch.yaml there and changes nothing else. Upstream's names and figures are taken as
they are; what can differ from checkout to checkout is looked for.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch.cli.output import say
from autoresearch.errors import UsageError
from autoresearch.files import read_tail, write_whole
from autoresearch.founding import default_tag, earlier_results
from autoresearch.logparse import TAIL_BYTES, parse_report
from autoresearch.target import FILE_NAME
from autoresearch.workspace import Workspace

CODE = ("train.py", "prepare.py")
INSTRUCTIONS = "program.md"
RESULTS, LOG = "results.tsv", "run.log"
METRIC = "val_bpb"
LOCKED = ("pyproject.toml", "uv.lock")  # without one of them uv cannot repeat an environment
PINNED = (*LOCKED, ".python-version")  # what else decides which one it makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What was found in a checkout."""

    pinned: Sequence[str]  # files that decide uv's environment; () where runs use our own Python
    why_python: str  # why uv is not used; "" where it is
    earlier: int | None  # rows of results.tsv; None without one
    logged: str  # what run.log says; "" without one
    study: str | None  # the tag to use where the usual one's branch is the user's; None: the usual one


def init_from(source: Path, folder: Path) -> None:
    """Make a study of a checkout; UsageError where another folder is named as well."""
    if folder != Path():
        raise UsageError(
            f"--from makes a study of {source} in place, and {folder} was named too",
            f"run `autoresearch init --from {source}`",
        )
    adopt(source)


def adopt(folder: Path) -> Checkout:
    """Write autoresearch.yaml into a checkout, say what was found and what comes next, and return it.

    Raises UsageError where it is no such checkout, is not committed, or has the file already.
    """
    folder = folder.absolute()
    _check(folder)
    workspace = Workspace(folder, "adopt")
    found = _look(workspace)
    write_whole(folder / FILE_NAME, _configuration(found).encode())
    for line in _told(found, folder):
        say(line)
    return found


def _check(folder: Path) -> None:
    for name in (*CODE, INSTRUCTIONS):
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder} has no {name}",
                "--from takes a checkout of karpathy/autoresearch: train.py, prepare.py and program.md;"
                " `autoresearch init DIR` scaffolds another study",
            )
    if (folder / FILE_NAME).exists():
        raise UsageError(
            f"{folder} has {FILE_NAME} already", "it is a study: `autoresearch run` begins or resumes it"
        )


def _look(workspace: Workspace) -> Checkout:
    head, folder = workspace.head(), workspace.folder
    lacking = workspace.missing(head, CODE)
    if lacking:
        raise UsageError(
            f"{lacking[0]} is not committed, and a study starts from committed code",
            f"run `git add {lacking[0]} && git commit`",
        )
    lacking = workspace.missing(head, PINNED)
    why_python = next((f"{name} is not committed" for name in LOCKED if name in lacking), "")
    if not why_python and shutil.which("uv") is None:
        why_python = "there is no uv on PATH"
    there = (folder / RESULTS).exists()
    return Checkout(
        pinned=() if why_python else [name for name in PINNED if name not in lacking],
        why_python=why_python,
        earlier=len(earlier_results(folder, RESULTS)) if there else None,
        logged=_logged(folder / LOG),
        study=_free_tag(workspace),
    )


def _logged(path: Path) -> str:
    """Return what upstream's log reports, in a line; "" where there is none."""
    if not path.is_file():
        return ""
    report = parse_report(read_tail(path, TAIL_BYTES), metric=METRIC, exit_code=0)
    if report.measurement is None:
        return f"{LOG}: {report.failure}"
    return f"{LOG}: {METRIC} {report.measurement.value:.6f}"


def _free_tag(workspace: Workspace) -> str | None:
    """Return a tag whose branch nobody has, where today's is taken: upstream names its branches alike."""
    tag = default_tag(time.time())
    tags = [tag, *(f"{tag}-{number}" for number in range(2, 100))]
    free = (each for each in tags if workspace.resolve(f"refs/heads/autoresearch/{each}") is None)
    found = next(free, None)
    return None if found == tag else found


def _told(found: Checkout, folder: Path) -> Iterator[str]:
    """Yield what was found and what comes next."""
    yield f"found train.py, prepare.py and program.md in {folder}"
    yield (
        f"python: {found.why_python}, so runs use autoresearch's own"
        if found.why_python
        else "python: uv, as uv.lock has it"
    )
    if found.logged:
        yield found.logged
    if found.earlier is not None:
        yield f"{RESULTS}: {found.earlier} earlier results; they stay at its top, and agents are told of them"
    yield "score self-reported: what train.py prints is believed"
    yield f"wrote {FILE_NAME}, and nothing else"
    where = "" if folder == Path.cwd() else f"cd {folder}; "
    yield f"next: {where}`autoresearch doctor`, then `autoresearch run`"


def _configuration(found: Checkout) -> str:
    """Return autoresearch.yaml for a checkout."""
    python = "{python}" if found.why_python else "uv run --frozen --project {protected} python"
    study = "# study: nov22                  # tag of the study; default: the latest one, or today's date"
    if found.study:
        study = f"study: {found.study:<24} # today's date names a branch that is there already"
    history = f"history: {RESULTS}" if found.earlier is not None else f"# history: {RESULTS}"
    return _TEMPLATE.format(
        study=study,
        protected=", ".join(["prepare.py", *found.pinned]),
        command=f"{python} train.py",
        prepare=f"{python} {{protected}}/prepare.py",
        machines="" if found.why_python else "; uv has to be on its PATH, and makes the environment first",
        history=history,
    )


_TEMPLATE = """\
# A study of karpathy/autoresearch as it is checked out here, written by `autoresearch init --from`.
# Every key is optional. Only committed files take part; what is untracked stays as it is.

{study}
instructions: program.md        # what the agent claude is told beside its rules
{history:<31} # results from before: kept at the top of results.tsv, told to agents

target:
  editable: [train.py]          # what agents edit
  # pinned when the study begins; runs find a copy beside train.py, which imports prepare
  protected: [{protected}]
  command: "{command}"
  # once per machine: data and tokenizer{machines}
  prepare: "{prepare}"
  score: log                    # self-reported: the summary that train.py prints is believed
  metric: {{name: val_bpb, goal: minimize}}
  profile: gpu
  budget_seconds: 300           # what prepare.py says, TIME_BUDGET; a change belongs there too
  timeout_seconds: 600          # of wall time; upstream calls a longer run a failure
  # env: {{HF_TOKEN: ...}}        # variables of every run; else they get PATH, HOME and the language

pool:
  executor: local               # or skypilot: machines on Kubernetes, clouds, Slurm
  workers: auto                 # every GPU of this machine; skypilot: {{H100: 13, H200: 3}}
  # prices: {{H100: 2.00}}        # USD per hour of one; needed for a ceiling on dollars

agent:
  name: sweep                   # a classical optimiser over train.py's constants; needs no key
                                # or claude: Claude reads program.md and edits; needs ANTHROPIC_API_KEY
                                # or external: agents at a shell submit (`autoresearch up`, then `submit`)

budget:                         # hard ceilings; leave a key out for no ceiling
  experiments: 100
  # hours: 8
  # gpu_dollars: 300            # nothing starts whose worst case would pass it
  # api_dollars: 9              # of the agent claude
  # until_ceiling: true         # stop by itself, from 40 on, when the next hour is not worth it

judging:
  baseline_runs: 3              # train.py fixes its seed, so these tell the machine's noise alone
"""
