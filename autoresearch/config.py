"""autoresearch.yaml: what it may say, its defaults, and errors that name the line and the way out.

`load` reads and checks. Whether files exist or a pool can be had is not checked here.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autoresearch.budget import Budget
from autoresearch.errors import ConfigError
from autoresearch.target import STRICT, Metric, Target

if TYPE_CHECKING:
    from yaml import Node


# Worker kinds: this machine's CPU, Apple's GPU, and accelerators by SkyPilot's names.
# fmt: off
KINDS = (
    "cpu", "mps", "GPU", "A10", "A10G", "A100", "A100-80GB", "A6000", "B200", "B300", "GB200", "GB300",
    "GH200", "H100", "H100-SXM", "H200", "H20", "L4", "L40", "L40S", "MI300X", "P100", "RTX2060", "RTX3090",
    "RTX4090", "RTX5090", "RTX5070TI", "RTX6000-Ada", "RTXPRO6000", "T4", "V100", "V100-32GB",
)
# fmt: on
MIN_BATCH, MAX_BATCH = 4, 16  # proposals of one call
TAG = re.compile(r"[a-z0-9][a-z0-9-]{0,29}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where runs go. `workers`: `auto`, a number of CPU slots, or kinds with their counts."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    executor: Literal["local", "skypilot"] = "local"
    workers: Literal["auto"] | int | dict[str, int] = "auto"
    prices: dict[str, float] = field(default_factory=dict)  # USD per hour and kind
    # For the executor `skypilot`:
    infra: str | None = None  # kubernetes, aws/us-east-1, slurm/mycluster ...; None: wherever it is cheapest
    image: str | None = None  # a container or machine image
    spot: bool = False
    gpus_per_cluster: int = 1  # 8: whole nodes, one worker per GPU
    cpus: str | None = None  # of one worker, such as 8 or 8+
    memory: str | None = None  # GB of one worker
    resources: dict[str, Any] = field(default_factory=dict)  # more of SkyPilot's `resources`
    python: str | None = None  # an interpreter on the workers that has torch; None: a new environment
    env: tuple[str, ...] = ()  # our variables that workers get, as SkyPilot secrets
    idle_minutes: int = 10  # a machine without work for so long goes away, whoever lives
    launch_minutes: int = 30  # a machine that is not ready by then is replaced

    @property
    def counts(self) -> Mapping[str, int]:
        """The workers asked for, by kind; empty where `workers` names no kinds."""
        return self.workers if isinstance(self.workers, dict) else {}

    @property
    def unpriced(self) -> Sequence[str]:
        """The kinds asked for whose price is not known."""
        return [kind for kind in self.counts if kind not in self.prices]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Who proposes, how much at once, and how many ideas may wait."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: Literal["sweep", "claude", "external"] = "sweep"
    backlog: int | None = None  # ideas to spare beside those soon needed; None: see backlog_for
    seed: int = 0
    # For the agent `external`, that is whoever runs `autoresearch submit`:
    patience_minutes: int = 60  # without anything to do, after which the pool is given back
    # For the agent `claude`:
    model: str = "claude-sonnet-5-5"
    effort: Literal["low", "medium", "high", "xhigh", "max"] = "medium"
    second_model: str | None = None  # asked for every `second_every`-th batch
    second_every: int = 0  # 0: never
    batch: int | None = None  # proposals of one call; None: see batch_for
    calls: int = 4  # at once, where one is not enough

    @property
    def label(self) -> str:
        """The agent as people read it: claude-sonnet-5-5 medium."""
        return self.name if self.name != "claude" else f"{self.model} {self.effort}"

    def batch_for(self, workers: int) -> int | None:
        """Return how many proposals one call asks for; None: as many as are needed.

        Fewer are fresher and dearer: see benchmarks/agent_cost.py.
        """
        if self.name != "claude":
            return None
        return self.batch or min(max(MIN_BATCH, math.ceil(workers / 2)), MAX_BATCH)

    def backlog_for(self, workers: int) -> int:
        """Return how many ideas are kept to spare: one an optimiser's worker, few of a dear agent's.

        Nobody is asked for those from outside.
        """
        if self.backlog is not None:
            return self.backlog
        match self.name:
            case "sweep":
                return workers
            case "claude":
                return math.ceil(workers / 8)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How results are judged."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    baseline_runs: int = 3
    prune: bool = True  # end screens early that cannot win any more; see judging/pruning.py
    policy: Literal["posterior", "confirm"] = "posterior"
    useless_keeps: float = 0.05  # of `posterior`: share of keeps that may be none
    noise: float | None = None  # sd of a run to expect before it is measured; None: known, or the baseline's
    margin: float = 1.0  # of `confirm`: sds of a difference that an improvement must exceed, twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of autoresearch.yaml."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    study: str | None = None
    state_dir: str = ".autoresearch"
    instructions: str = "instructions.md"
    history: str | None = None  # a results.tsv from before: told to agents, kept in results.tsv
    target: Target = field(default_factory=Target)
    pool: Pool = field(default_factory=Pool)
    budget: Budget = field(default_factory=Budget)
    agent: AgentConfig = field(default_factory=AgentConfig)
    judging: Judging = field(default_factory=Judging)


def load(path: Path) -> Config:
    """Return the checked configuration.

    Raises ConfigError, `FILE:LINE: KEY: what is wrong`, for anything it does not understand.
    """
    import yaml

    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(
            f"no {path.name} in {path.parent}", "run `autoresearch init` to scaffold a study here"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path.name}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: not YAML: {str(error).splitlines()[0]}") from None
    try:
        return parse(raw if raw is not None else {})
    except _ProblemError as problem:
        line = _line(root, problem.path)
        where = ".".join(str(part) for part in problem.path)
        raise ConfigError(f"{path.name}:{line}: {where + ': ' if where else ''}{problem.text}") from None


def parse(raw: object) -> Config:
    """Return the configuration held in plain data; raise on the first thing that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(raw, dict):
        raise _ProblemError((), f"is {_name(raw)}; the file must hold keys such as target, pool, budget")
    try:
        # As JSON: strict validation then still takes mappings for dataclasses and lists for tuples.
        config = TypeAdapter(Config).validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        raise _first_problem(error.errors()) from None
    _check(config)
    return config


class _ProblemError(Exception):
    """What is wrong at a path of keys."""

    def __init__(self, path: tuple[str | int, ...], text: str) -> None:
        super().__init__(text)
        self.path = path
        self.text = text


def _first_problem(errors: Sequence[Any]) -> _ProblemError:
    """Return the most telling of pydantic's errors, in our words: an unknown key, else the deepest."""
    paths = [tuple(part for part in error["loc"] if not _is_union_tag(part)) for error in errors]
    for error, path in zip(errors, paths, strict=True):
        if error["type"] == "unexpected_keyword_argument":
            return _ProblemError(path, "unknown key" + _did_you_mean(str(path[-1]), _keys_at(path[:-1])))
    deepest = max(paths, key=len)
    there = [error for error, path in zip(errors, paths, strict=True) if path == deepest]
    wanted = " or ".join(dict.fromkeys(_expected(error) for error in there))
    return _ProblemError(deepest, f"is {_name(there[0]['input'])}; use {wanted}")


_UNION_TAGS = re.compile(r"^(float|int|str|bool|dict\[.*\]|literal\[.*\]|tuple\[.*\]|list\[.*\])$")


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and _UNION_TAGS.match(part) is not None


def _expected(error: Any) -> str:
    kinds = {
        "int_type": "a whole number",
        "float_type": "a number",
        "string_type": "text",
        "dict_type": "keys with values",
        "tuple_type": "a list",
        "bool_type": "true or false",
        "dataclass_type": "keys with values",
        "literal_error": error.get("ctx", {}).get("expected", ""),
    }
    return kinds.get(error["type"]) or str(error["msg"]).lower()


def _name(value: object) -> str:
    names: dict[type, str] = {dict: "a mapping", list: "a list", tuple: "a list", type(None): "empty"}
    return names.get(type(value), repr(value))


def _keys_at(path: Sequence[str | int]) -> list[str]:
    """Return the keys the configuration knows at a path."""
    sections: dict[tuple[str | int, ...], Any] = {
        (): Config,
        ("target",): Target,
        ("target", "metric"): Metric,
        ("pool",): Pool,
        ("budget",): Budget,
        ("agent",): AgentConfig,
        ("judging",): Judging,
    }
    section = sections.get(tuple(path))
    return [f.name for f in fields(section)] if section else []


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _line(node: Node | None, path: Sequence[str | int]) -> int:
    """Return the line, from 1, of the deepest node of the file on a path."""
    import yaml

    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                return line
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _check(config: Config) -> None:
    """Raise _ProblemError for values that have the right type and make no sense."""
    if config.study is not None and (problem := check_tag(config.study)):
        raise _ProblemError(("study",), problem)
    _check_target(config.target)
    _check_pool(config.pool)
    for name in ("experiments", "hours", "gpu_dollars", "gpu_dollars_per_hour", "api_dollars", "stop_below"):
        ceiling = getattr(config.budget, name)
        if ceiling is not None and ceiling < 0:
            raise _ProblemError(("budget", name), f"is {ceiling}; a ceiling cannot be negative")
    if config.judging.baseline_runs < 2:
        raise _ProblemError(("judging", "baseline_runs"), "noise needs at least 2 runs of the baseline")
    share, noise = config.judging.useless_keeps, config.judging.noise
    if not 0 < share <= 0.5:
        raise _ProblemError(("judging", "useless_keeps"), f"is {share}; use a share, such as 0.05")
    if noise is not None and not noise > 0:
        raise _ProblemError(("judging", "noise"), f"is {noise}; a standard deviation is more than 0")
    _check_agent(config.agent)


def _check_agent(agent: AgentConfig) -> None:
    if agent.patience_minutes < 1:
        raise _ProblemError(("agent", "patience_minutes"), f"is {agent.patience_minutes}; use at least 1")
    if agent.backlog is not None and agent.backlog < 0:
        raise _ProblemError(("agent", "backlog"), f"is {agent.backlog}; it cannot be negative")
    if agent.batch is not None and not 1 <= agent.batch <= 40:
        raise _ProblemError(("agent", "batch"), f"is {agent.batch}; use 1 to 40")
    if not 1 <= agent.calls <= 16:
        raise _ProblemError(("agent", "calls"), f"is {agent.calls}; use 1 to 16")
    if agent.second_every < 0:
        raise _ProblemError(("agent", "second_every"), f"is {agent.second_every}; it cannot be negative")
    if bool(agent.second_every) != (agent.second_model is not None):
        raise _ProblemError(("agent", "second_every"), "and second_model are set together or not at all")


_API_KEY = re.compile(r"^(ANTHROPIC|OPENAI)_|API_?KEY|^CLAUDE_")


def _check_skypilot(pool: Pool) -> None:
    for key in ("gpus_per_cluster", "idle_minutes", "launch_minutes"):
        if getattr(pool, key) < 1:
            raise _ProblemError(("pool", key), f"is {getattr(pool, key)}; it must be at least 1")
    for i, name in enumerate(pool.env):
        if _API_KEY.search(name):
            raise _ProblemError(("pool", "env", i), f"is {name}; API keys never go to a worker")
    for key in ("cpus", "memory"):
        amount = getattr(pool, key)
        if amount is not None and not re.fullmatch(r"\d+(\.\d+)?\+?", amount):
            raise _ProblemError(("pool", key), f'is {amount!r}; use a number in quotes, such as "8" or "8+"')
    if pool.executor == "skypilot" and not isinstance(pool.workers, dict):
        raise _ProblemError(("pool", "workers"), f"is {pool.workers}; name kinds and counts, as {{H100: 8}}")
    for kind, count in pool.counts.items():
        if count % pool.gpus_per_cluster:
            problem = f"is {count}, no multiple of gpus_per_cluster {pool.gpus_per_cluster}"
            raise _ProblemError(("pool", "workers", kind), problem)


def _check_pool(pool: Pool) -> None:
    _check_skypilot(pool)
    if isinstance(pool.workers, int) and pool.workers < 1:
        raise _ProblemError(("pool", "workers"), f"is {pool.workers}; at least 1 worker is needed")
    for key, kinds in (("workers", pool.counts), ("prices", pool.prices)):
        for kind in kinds:
            if kind not in KINDS:
                raise _ProblemError(("pool", key, kind), "unknown accelerator" + _did_you_mean(kind, KINDS))
    for kind, count in pool.counts.items():
        if count < 1:
            raise _ProblemError(("pool", "workers", kind), f"is {count}; leave it out or give at least 1")
    for kind, price in pool.prices.items():
        if price < 0:
            raise _ProblemError(("pool", "prices", kind), f"is {price}; a price cannot be negative")


def check_tag(tag: str) -> str | None:
    """Return None for a tag that can be a folder, a git ref and part of a cluster's name, else why not."""
    if TAG.fullmatch(tag):
        return None
    return f"is {tag!r}; use 1 to 30 lower-case letters, digits and dashes, such as nov22"


def _check_metric(target: Target) -> None:
    pattern = target.metric.pattern
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise _ProblemError(("target", "metric", "pattern"), f"is no regular expression: {error}") from None
    if groups != 1:
        problem = f"has {groups} groups; put one around the number, as in ^METRIC accuracy=(.*)"
        raise _ProblemError(("target", "metric", "pattern"), problem)
    if target.score == "harness":
        raise _ProblemError(("target", "score"), "is harness, but metric.pattern reads the log")


def _check_target(target: Target) -> None:
    _check_metric(target)
    if not target.editable:
        raise _ProblemError(("target", "editable"), "is empty; name at least one file for agents to edit")
    for key in ("editable", "protected"):
        for i, name in enumerate(getattr(target, key)):
            path = Path(name)
            if path.is_absolute() or ".." in path.parts or not name.strip():
                raise _ProblemError(("target", key, i), f"is {name!r}; use a path inside the study's folder")
    both = set(target.editable) & set(target.protected)
    if both:
        raise _ProblemError(("target", "protected"), f"{min(both)} is editable as well; it cannot be both")
    for key in ("budget_seconds", "timeout_seconds"):
        value = getattr(target, key)
        for name, seconds in value.items() if isinstance(value, dict) else [(None, value)]:
            if not seconds > 0:
                path_to = ("target", key, name) if name else ("target", key)
                raise _ProblemError(path_to, f"is {seconds}; it must be more than 0 seconds")
