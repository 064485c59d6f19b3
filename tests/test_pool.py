"""What a command line says about a SkyPilot pool before anything is started."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lab import Lab

Cli = Callable[..., subprocess.CompletedProcess[str]]
CONFIG = """\
target:
  editable: [train.py]
  protected: [fake_training.py]
  command: "{python} {protected}/fake_training.py"
  score: log
  profile: gpu
pool:
  executor: skypilot
  workers: {H100: 13, H200: 3}
  infra: kubernetes
  prices: {H100: 2.00, H200: 2.30}
budget: {gpu_dollars: 300, hours: 8}
"""


@pytest.fixture
def ready(lab: Lab) -> Lab:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit()
    return lab


def configured(lab: Lab, old: str, new: str) -> Path:
    path = lab.folder / "autoresearch.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return lab.folder


def test_a_dry_run_says_what_would_start_and_cost_and_starts_nothing(ready: Lab, cli: Cli) -> None:
    told = cli("run", "--dry-run", "--study", "nov22", cwd=ready.folder)
    assert told.returncode == 0, told.stderr
    assert (
        "13 H100 + 3 H200 on kubernetes, $32.90/h; at most GPU $300, 8 h ($263.20 of this pool)"
        in told.stdout
    )
    assert "would launch 13 x H100:1   ar-nov22-h100-01 ... ar-nov22-h100-13" in told.stdout
    assert "would launch 3 x H200:1   ar-nov22-h200-01 ... ar-nov22-h200-03" in told.stdout
    assert "budget.gpu_dollars: $300, reached after 9.1 h" in told.stdout
    task = yaml.safe_load(told.stdout.split("\n\n", 1)[1])
    assert task["resources"] == {"infra": "kubernetes", "accelerators": "H100:1"}
    assert not (ready.folder / ".autoresearch").exists()


def test_an_agent_is_told_the_same_in_one_small_document(ready: Lab, cli: Cli) -> None:
    said = cli("up", "--dry-run", "--study", "nov22", cwd=ready.folder)
    assert (said.returncode, said.stdout.count("\n")) == (0, 1), said.stderr
    document = json.loads(said.stdout)
    assert (document["study"], document["dry_run"]) == ("nov22", True)
    assert "would launch 13 x H100:1   ar-nov22-h100-01 ... ar-nov22-h100-13" in document["would"]
    assert len(said.stdout) <= 2001
    text = cli("up", "--dry-run", "--study", "nov22", "--no-json", cwd=ready.folder).stdout
    assert text == cli("run", "--dry-run", "--study", "nov22", cwd=ready.folder).stdout
    assert not (ready.folder / ".autoresearch").exists()


def test_whole_nodes_are_launched_as_such(ready: Lab, cli: Cli) -> None:
    configured(ready, "{H100: 13, H200: 3}", "{H100: 16}\n  gpus_per_cluster: 8\n  cpus: '12'")
    told = cli("run", "--dry-run", "--study", "n", cwd=ready.folder).stdout
    assert "would launch 2 x H100:8   ar-n-h100-01 ... ar-n-h100-02" in told
    assert yaml.safe_load(told.split("\n\n", 1)[1])["resources"]["cpus"] == "96"


@pytest.mark.parametrize(
    ("old", "new", "code", "message", "hint"),
    [
        (", H200: 2.30}", "}", 2, "no price for H200", "set pool.prices.H200"),
        ("hours: 8", "gpu_dollars_per_hour: 30", 2, "costs $32.90/h, above the ceiling of $30/h", "lower"),
        (
            "gpu_dollars: 300",
            "gpu_dollars: 5",
            5,
            "starting the pool and one run could take",
            "fewer workers",
        ),
        ("budget: {gpu_dollars: 300, hours: 8}", "", 2, "nobody here to ask", "--yes"),
        ("{H100: 13, H200: 3}", "4", 2, "autoresearch.yaml:9: pool.workers: is 4; name kinds", ""),
        ("{H100: 13, H200: 3}", "{H10: 3}", 2, "unknown accelerator; did you mean H100?", ""),
        ("infra: kubernetes", "gpus_per_cluster: 8", 2, "is 13, no multiple of gpus_per_cluster 8", ""),
        ("infra: kubernetes", "env: [ANTHROPIC_API_KEY]", 2, "API keys never go to a worker", ""),
        ("infra: kubernetes", "env: [NO_SUCH_TOKEN]", 2, "NO_SUCH_TOKEN, which is not set", "export it"),
        ("infra: kubernetes", "cpus: lots", 2, "pool.cpus: is 'lots'; use a number in quotes", ""),
    ],
)
def test_a_pool_that_cannot_be_is_refused_in_one_line(
    ready: Lab, cli: Cli, old: str, new: str, code: int, message: str, hint: str
) -> None:
    told = cli("run", cwd=configured(ready, old, new))
    assert (told.returncode, told.stdout) == (code, ""), told.stderr
    assert message in told.stderr
    assert hint in told.stderr
    assert len(told.stderr.strip().splitlines()) <= 3


@pytest.mark.slow
def test_a_local_run_has_no_task_to_show(lab: Lab, cli: Cli) -> None:
    (lab.folder / "autoresearch.yaml").write_text(
        CONFIG[: CONFIG.index("pool:")].replace("gpu", "cpu")
        + "pool: {workers: 2}\nbudget: {experiments: 0}\n"
    )
    lab.commit()
    assert cli("run", cwd=lab.folder).returncode == 0
    told = cli("show", "e0001", "--task", "--no-json", cwd=lab.folder)
    assert told.returncode == 3
    assert "e0001.3 ran on this machine, without a task" in told.stderr


def test_down_and_reap_say_that_nothing_is_left(lab: Lab, cli: Cli) -> None:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit()
    lab.study().close()
    for command in ("down", "reap"):
        told = cli(command, "--no-json", cwd=lab.folder)
        assert told.returncode == 0
        assert "no machines are left" in told.stderr
