"""The real Claude Code, headless and offline, runs a study with nothing but `autoresearch` commands.

Its model is a loopback server scripted by a generator: it yields what to do next, and is sent what came of
it. Skipped where Claude Code's program is not installed: `pip install 'autoresearch[claude-code]'`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.experiment import Purpose, Verdict
from autoresearch.store import Store
from fake_messages import FakeMessages, reply, text, tool_use
from lab import ROOT, Lab
from test_cli import CONFIG

SHELL_LIMIT_SECONDS = 120.0  # after which Claude Code moves a command to the background
CODE = "X = 1.0\nY = 1.0\nNOISE = 0.01\nSLEEP = 0.1\n"
Mind = Generator[dict[str, Any], Any, str]


def program() -> str | None:
    """Return the path of Claude Code's program, or None."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if bundled.is_file():
            return str(bundled)
    return os.environ.get("AUTORESEARCH_CLAUDE_CODE")


needs_claude_code = pytest.mark.skipif(
    program() is None, reason="Claude Code is not installed: pip install 'autoresearch[claude-code]'"
)
pytestmark = [pytest.mark.slow, needs_claude_code]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return all that Claude Code is told: a home of its own, and that nobody is to be called."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        **more,
    }


def bash(command: str) -> dict[str, Any]:
    return tool_use("Bash", {"command": command, "description": "run a study"})


def last_result(body: dict[str, Any]) -> Any:
    """Return what came of the last tool: JSON where it is some, else text."""
    blocks = [
        block
        for message in body["messages"]
        for block in (message["content"] if isinstance(message["content"], list) else [])
        if block.get("type") == "tool_result"
    ]
    if not blocks:
        return None
    content = blocks[-1]["content"]
    said = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    try:
        return json.loads(said[said.index("{") :])
    except ValueError:
        return said


def scripted(mind: Mind) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a model that does what a generator says, and answers side questions with a word."""
    begun = False

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal begun
        if not body.get("tools"):
            return reply(text("autoresearch"))
        try:
            block = mind.send(last_result(body)) if begun else next(mind)
        except StopIteration as end:
            return reply(text(end.value))
        begun = True
        return reply(block)

    return answer


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for PATH with an `autoresearch` that notes how long each command took, and its size."""
    folder = tmp_path / "bin"
    folder.mkdir()
    wrapper = folder / "autoresearch"
    wrapper.write_text(
        f"#!{sys.executable}\n"
        "import json, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        f"command = [{sys.executable!r}, '-m', 'autoresearch', *sys.argv[1:]]\n"
        "done = subprocess.run(command, capture_output=True)\n"
        "sys.stdout.buffer.write(done.stdout); sys.stderr.buffer.write(done.stderr)\n"
        "note = {'words': sys.argv[1:], 'code': done.returncode, 'seconds': time.monotonic() - began,"
        " 'bytes': len(done.stdout)}\n"
        f"open({str(tmp_path / 'calls.jsonl')!r}, 'a').write(json.dumps(note) + '\\n')\n"
        "sys.exit(done.returncode)\n"
    )
    wrapper.chmod(0o755)
    return folder


@pytest.fixture
def ready(lab: Lab, commands: Path) -> Iterator[Lab]:
    """A study folder as `init` leaves one, but with training of milliseconds; nothing is left running."""
    (lab.folder / "autoresearch.yaml").write_text(CONFIG.replace("experiments: 3", "experiments: 40"))
    (lab.folder / "train.py").write_text(CODE)
    shutil.copy(ROOT / "instructions.md", lab.folder)
    shutil.copy(ROOT / "AGENTS.md", lab.folder)
    shutil.copytree(ROOT / ".claude" / "skills", lab.folder / ".claude" / "skills")
    lab.commit("configured")
    yield lab
    subprocess.run([commands / "autoresearch", "down"], cwd=lab.folder, capture_output=True, check=False)


def run_claude(lab: Lab, commands: Path, home: Path, mind: Mind) -> tuple[dict[str, Any], FakeMessages]:
    """Have Claude Code do what a generator says; return its report and what its model was asked."""
    with FakeMessages(default=scripted(mind), strict=False) as server:
        env = environment(
            home,
            PATH=f"{commands}:/usr/local/bin:/usr/bin:/bin",
            PYTHONPATH=str(ROOT),
            ANTHROPIC_API_KEY="sk-ant-dummy",
            ANTHROPIC_BASE_URL=server.url,
        )
        command = [
            *(program() or "", "-p", "Read instructions.md and start running parallel experiments."),
            *("--output-format", "json", "--model", "claude-sonnet-5-5", "--max-turns", "60"),
            *("--allowedTools", "Bash(autoresearch *)"),
        ]
        options: dict[str, Any] = {"env": env, "cwd": lab.folder, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, **options, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return json.loads(done.stdout), server


def wait_for_all(cursor: int) -> Generator[dict[str, Any], Any, int]:
    """Wait until nothing is pending any more; return the last cursor."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        found = yield bash(f"autoresearch wait --since {cursor} --timeout 60")
        cursor = found["cursor"]
        if not found["pending"]:
            return cursor
    raise AssertionError("the experiments did not end")


def researcher(folder: Path, seen: dict[str, Any]) -> Mind:
    """A night of research: a grid, a batch of edits, what they say, the best confirmed, a note, the end."""
    seen["instructions"] = yield tool_use("Read", {"file_path": str(folder / "instructions.md")})
    seen["up"] = yield bash("autoresearch up --experiments 30")
    brief = yield bash("autoresearch brief --code")
    code = brief["code"]["train.py"]
    grid = yield bash("autoresearch submit --factor X=1.5,2.5 --factor Y=1,2,3 -m 'does Y matter at all?'")
    seen["grid"] = grid
    ideas = [
        {"hypothesis": "it's nearer to 2", "edits": [{"old": "X = 1.0", "new": "X = 1.9"}]},
        {"hypothesis": "on the spot", "expected": -1.0, "edits": [{"old": "X = 1.0", "new": "X = 2.0"}]},
        {"hypothesis": "a crash", "edits": [{"old": code[:7], "new": "X = 1.0\nCRASH = True"}]},
        {"hypothesis": "a typo", "edits": [{"old": "X = 7", "new": "X = 8"}]},
    ]
    wave = shlex.quote(json.dumps(ideas))
    seen["wave"] = yield bash(f"autoresearch submit --parent e0001 --request-id w1 --wave {wave}")
    again = yield bash(f"autoresearch submit --parent e0001 --request-id w1 --wave {wave}")
    assert again["experiments"] == seen["wave"]["experiments"]
    yield from wait_for_all(grid["cursor"])
    seen["results"] = yield bash("autoresearch results --limit 5")
    seen["effects"] = yield bash(f"autoresearch results --grid {grid['grid']}")
    best = seen["results"]["results"][0]["experiment"]
    crash = seen["wave"]["experiments"][2]
    seen["log"] = yield bash(f"autoresearch log {crash}")
    confirmed = yield bash(f"autoresearch confirm {best} --runs 2")
    yield from wait_for_all(int(confirmed["next"].rsplit(" ", 1)[1]))
    yield bash("autoresearch note 'X 2 is the best; Y does nothing -> drop it'")
    seen["budget"] = yield bash("autoresearch budget")
    seen["down"] = yield bash("autoresearch down")
    seen["best"] = best
    return "FINISHED"


def test_claude_code_runs_a_study_from_its_instructions(ready: Lab, commands: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    report, server = run_claude(ready, commands, tmp_path / "home", researcher(ready.folder, seen))
    assert report["result"] == "FINISHED", report
    assert report["permission_denials"] == []
    assert "Running the study" in seen["instructions"]
    assert any(
        "autoresearch" in json.dumps(r.get("body", {}).get("messages", [])[:1]) for r in server.requests
    )

    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert max(call["seconds"] for call in calls) < SHELL_LIMIT_SECONDS
    assert {call["code"] for call in calls} <= {0, 124}
    big = [call["words"] for call in calls if call["bytes"] > 2048 and "--code" not in call["words"]]
    assert big == []

    (path,) = (ready.folder / ".autoresearch").glob("*/study.db")
    store = Store(path)
    history = store.history()
    ours = {name: e for name, e in history.experiments.items() if name != "e0001"}
    assert {e.author for e in ours.values()} == {"claude-code"}
    assert sorted(ours) == sorted({*seen["grid"]["experiments"], *filter(None, seen["wave"]["experiments"])})
    assert len(ours) == 9, "six cells and three edits that apply; nothing twice"
    assert seen["wave"]["experiments"][3] is None
    assert all(e.verdict is not None and e.commit for e in ours.values())
    assert history.experiments[seen["wave"]["experiments"][2]].verdict is Verdict.CRASH
    assert seen["log"]["failure"]["kind"] == "shape"
    confirmations = [r for r in history.runs_of(seen["best"]) if r.purpose is Purpose.CONFIRM]
    assert sum(r.measurement is not None for r in confirmations) >= 2
    assert history.runs_of(seen["wave"]["experiments"][1])[0].value == pytest.approx(1.0, abs=0.05)
    x, y = seen["effects"]["main"]["X"], seen["effects"]["main"]["Y"]["levels"]["2"]
    assert abs(x["levels"]["2.5"]["effect"]) < 0.1, "X 1.5 and 2.5 are equally far from 2"
    assert abs(y["effect"]) < 0.1
    assert any("Y does nothing" in str(event.data["notes"]) for event in store.last_events(5, ["noted"]))
    assert store.experiment(seen["wave"]["experiments"][1]).expected == -1.0
    assert seen["down"]["ended"]
    assert not history.in_flight()
    store.close()


def test_claude_code_accepts_the_plugin(tmp_path: Path) -> None:
    done = subprocess.run(
        [program() or "", "plugin", "validate", str(ROOT)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation passed" in done.stdout
    assert "autoresearch:autoresearch" in done.stdout, "the skill is part of it"


def test_claude_code_lists_the_skill(ready: Lab, commands: Path, tmp_path: Path) -> None:
    """What Claude Code tells its model of the skill is its description, whole."""

    def mind() -> Mind:
        yield bash("autoresearch --version")
        return "FINISHED"

    report, server = run_claude(ready, commands, tmp_path / "home", mind())
    assert report["result"] == "FINISHED"
    told = json.dumps([request.get("body") for request in server.requests])
    assert "Run and steer an autoresearch study" in told
    assert "For coding agents" in told, "AGENTS.md is read"
