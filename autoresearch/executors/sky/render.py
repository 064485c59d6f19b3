"""SkyPilot tasks, filled from tasks/worker.yaml and tasks/experiment.yaml.

Pure: text in, a task as plain data out. A run's files travel inside its `run` text, so that no two
jobs of a cluster share a folder; nothing of the orchestrator's environment travels unless named.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch.errors import ConfigError
from autoresearch.experiment import Files, JobSpec, Place

Task = dict[str, Any]

# Where a worker's commands find things; the shell of the task knows the two variables.
PLACE = Place(python="{python}", protected="{protected}", env={})
_VARIABLES = {"{python}": '"$python"', "{protected}": '"$protected"'}
_LINE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all machines of a study share."""

    worker: str  # the text of tasks/worker.yaml
    experiment: str  # the text of tasks/experiment.yaml
    protected: str  # the pinned protected files, a folder of this machine
    protected_sha256: str
    baseline: Files
    command: Sequence[str]
    prepare: Sequence[str] | None
    env: Mapping[str, str]  # of every run: profile, budget, timeout, the target's own
    python: str | None = None  # an interpreter on the machines; None: worker.yaml makes one
    infra: str | None = None
    image: str | None = None
    spot: bool = False
    cpus: str | None = None  # of one slot
    memory: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)  # more of SkyPilot's own keys
    secrets: Mapping[str, str] = field(default_factory=dict)


def worker_task(recipe: Recipe, *, name: str, kind: str, gpus: int) -> Task:
    """Return the task that sets a machine up. Its secrets are named and have no values yet."""
    task = _load(recipe.worker, "tasks/worker.yaml")
    task["name"] = name
    task["resources"] = _resources(recipe, kind, gpus)
    task["envs"] = {
        **(task.get("envs") or {}),
        **recipe.env,
        **_device(recipe, kind),
        "AUTORESEARCH_PYTHON": recipe.python or "",
        "AUTORESEARCH_KIND": kind,
        "AUTORESEARCH_PROTECTED_SHA256": recipe.protected_sha256,
    }
    task["file_mounts"] = {
        **{k: v for k, v in (task.get("file_mounts") or {}).items() if not k.startswith(_PROTECTED)},
        _PROTECTED: recipe.protected,
    }
    prepare = _shell("prepare", recipe.prepare) if recipe.prepare else "true"
    task["setup"] = _replace(str(task.get("setup") or ""), "prepare", prepare, "tasks/worker.yaml")
    task["run"] = _with_files(task["run"], recipe.baseline, recipe.command, "tasks/worker.yaml")
    return _with_secrets(task, recipe)


_PROTECTED = "~/autoresearch/protected"


def experiment_task(recipe: Recipe, job: JobSpec, *, kind: str, gpus: int = 1) -> Task:
    """Return the task of one job, complete: `sky launch` on it alone repeats the run."""
    task = _load(recipe.experiment, "tasks/experiment.yaml")
    machine = worker_task(recipe, name=job.name, kind=kind, gpus=gpus)
    env = {name: value for name, value in job.env.items() if name != "AUTORESEARCH_RUN"}
    task["name"] = job.name
    task["resources"] = machine["resources"]
    task["envs"] = {
        **(task.get("envs") or {}),
        **machine["envs"],
        **env,
        "AUTORESEARCH_JOB": job.name,
        "AUTORESEARCH_JOB_SECONDS": f"{job.timeout_seconds:g}",
    }
    task["file_mounts"] = machine["file_mounts"]
    task["setup"] = machine["setup"]
    task["run"] = _with_files(task["run"], job.files, job.command, "tasks/experiment.yaml")
    return _with_secrets(task, recipe)


def on_a_worker(task: Task) -> Task:
    """Return a job's task without what its machine has already: what `sky exec` is given."""
    task = {key: value for key, value in task.items() if key not in {"setup", "file_mounts"}}
    kept = {"accelerators", "cpus", "memory"}
    return task | {"resources": {k: v for k, v in task["resources"].items() if k in kept}}


def with_secrets(task: Task, secrets: Mapping[str, str]) -> Task:
    """Return a task with the values of its secrets, which no file ever holds."""
    if not task.get("secrets"):
        return task
    return task | {"secrets": {name: secrets[name] for name in task["secrets"]}}


def to_yaml(task: Task, heading: str) -> str:
    """Return a task as YAML that reads well: texts as blocks, in SkyPilot's order of keys."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    ordered = {key: task[key] for key in _ORDER if key in task} | task
    body: str = yaml.dump(ordered, Dumper=Dumper, sort_keys=False, width=1 << 16)
    return "".join(f"# {line}\n" for line in heading.splitlines()) + body


_ORDER = ("name", "resources", "envs", "secrets", "file_mounts", "setup", "run")


def pack(files: Files) -> bytes:
    """Return files as a compressed archive, the same bytes for the same files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            content = files[name].encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def _load(text: str, name: str) -> Task:
    import yaml

    try:
        task = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(task, dict) or not isinstance(task.get("run"), str):
        raise ConfigError(f"{name} has no `run` text", _SCAFFOLD)
    return task


_SCAFFOLD = "`autoresearch init` in an empty folder writes a working one"


def _resources(recipe: Recipe, kind: str, gpus: int) -> dict[str, Any]:
    wanted: dict[str, Any] = {"infra": recipe.infra, "image_id": recipe.image}
    if kind != "cpu":
        wanted["accelerators"] = f"{kind}:{gpus}"
    if recipe.spot:
        wanted["use_spot"] = True
    wanted |= {"cpus": _times(recipe.cpus, gpus), "memory": _times(recipe.memory, gpus)}
    return {key: value for key, value in wanted.items() if value is not None} | dict(recipe.resources)


def _times(amount: str | None, count: int) -> str | None:
    """Return an amount such as `4` or `16+`, so many times."""
    if amount is None:
        return None
    number, plus = amount.rstrip("+"), "+" if amount.endswith("+") else ""
    return f"{float(number) * count:g}{plus}"


def _device(recipe: Recipe, kind: str) -> dict[str, str]:
    """Return the device to use: an accelerator that cannot be used must fail, not turn into a CPU."""
    if "AUTORESEARCH_DEVICE" in recipe.env:
        return {}
    return {"AUTORESEARCH_DEVICE": "cpu" if kind == "cpu" else "cuda"}


def _with_files(script: str, files: Files, command: Sequence[str], name: str) -> str:
    packed = pack(files)
    lines = base64.b64encode(packed).decode()
    payload = "\n".join(lines[i : i + _LINE] for i in range(0, len(lines), _LINE))
    digest = hashlib.sha256(packed).hexdigest()
    for marker, filled in (
        ('files_sha256=""', f'files_sha256="{digest}"'),
        ("<<'FILES'\nFILES", f"<<'FILES'\n{payload}\nFILES"),
    ):
        if script.count(marker) != 1:
            raise ConfigError(f"{name}: `run` needs the line {marker.splitlines()[0]} once", _SCAFFOLD)
        script = script.replace(marker, filled)
    return _replace(script, "run", _shell("run", command), name)


def _replace(script: str, word: str, filled: str, name: str) -> str:
    """Replace the one line of a script that begins with a word."""
    found = re.findall(rf"^{word} .*$", script, re.MULTILINE)
    if len(found) != 1:
        raise ConfigError(f"{name}: needs one line that begins with `{word} `", _SCAFFOLD)
    return script.replace(found[0], filled)


def _shell(word: str, command: Sequence[str]) -> str:
    """Return a call of the shell function `word` with a command's words, quoted."""
    return " ".join([word, *(_quote(part) for part in command)])


def _quote(part: str) -> str:
    pieces = re.split(r"(\{python\}|\{protected\})", part)
    return "".join(_VARIABLES.get(piece) or shlex.quote(piece) for piece in pieces if piece) or "''"


def _with_secrets(task: Task, recipe: Recipe) -> Task:
    if recipe.secrets:
        task["secrets"] = dict.fromkeys(recipe.secrets)
    return task
