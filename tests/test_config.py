"""A broken autoresearch.yaml gets one line that names file, line, key and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.config import Config, load, parse
from autoresearch.config import _ProblemError as ProblemError
from autoresearch.errors import ConfigError
from autoresearch.target import Target

ROOT = Path(__file__).resolve().parents[1]


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "autoresearch.yaml"
    path.write_text(text)
    return load(path)


def test_the_shipped_configuration_is_valid_and_says_what_the_readme_says() -> None:
    config = load(ROOT / "autoresearch.yaml")
    assert config.target.resolve(["cpu"]).seconds == 20
    assert config.target.resolve(["H100", "H200"]).seconds == 300
    assert config.budget.experiments == 12
    assert config.pool.workers == {"cpu": 2}


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("studdy: x\n", "autoresearch.yaml:1: studdy: unknown key; did you mean study?"),
        ("pool:\n  workers: 3\n\na: 1\n", "autoresearch.yaml:4: a: unknown key; known here: study"),
        ("pool:\n  workerz: 3\n", "autoresearch.yaml:2: pool.workerz: unknown key; did you mean workers?"),
        (
            "pool:\n  workers:\n    H10: 3\n",
            "autoresearch.yaml:3: pool.workers.H10: unknown accelerator; did you mean H100?",
        ),
        ("pool:\n  workers: 0\n", "autoresearch.yaml:2: pool.workers: is 0; at least 1 worker"),
        (
            "pool:\n  workers: many\n",
            "pool.workers: is 'many'; use 'auto' or a whole number or keys with values",
        ),
        ("pool:\n  prices: {H100: -1}\n", "pool.prices.H100: is -1.0; a price cannot be negative"),
        (
            "target:\n  metric:\n    goal: smaller\n",
            "autoresearch.yaml:3: target.metric.goal: is 'smaller'; use 'minimize' or 'maximize'",
        ),
        (
            "target:\n  editable: train.py\n",
            "autoresearch.yaml:2: target.editable: is 'train.py'; use a list",
        ),
        ("target:\n  editable: []\n", "target.editable: is empty"),
        ("target:\n  editable: [../x.py]\n", "target.editable.0: is '../x.py'; use a path inside"),
        ("target:\n  editable: [a.py]\n  protected: [a.py]\n", "target.protected: a.py is editable as well"),
        (
            "target:\n  budget_seconds: {cpu: abc}\n",
            "autoresearch.yaml:2: target.budget_seconds.cpu: is 'abc'; use a number",
        ),
        ("target:\n  budget_seconds: 0\n", "target.budget_seconds: is 0.0; it must be more than 0"),
        ("budget:\n  hours: lots\n", "autoresearch.yaml:2: budget.hours: is 'lots'; use a number"),
        ("budget:\n  experiments: 1.5\n", "budget.experiments: is 1.5; use a whole number"),
        ("budget:\n  hours: -1\n", "budget.hours: is -1.0; a ceiling cannot be negative"),
        ("judging:\n  baseline_runs: 1\n", "noise needs at least 2 runs"),
        ("judging:\n", "autoresearch.yaml:1: judging: is empty; use keys with values"),
        ("study: NOV 22\n", "study: is 'NOV 22'; use 1 to 30 lower-case letters"),
        ("- a\n", "is a list; the file must hold keys"),
        ("a: [\n", "autoresearch.yaml:2: not YAML"),
        ("a: \x00\n", "autoresearch.yaml: not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, text)
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert error.value.exit_code == 2


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "autoresearch.yaml")
    assert "autoresearch init" in error.value.hint


def test_a_file_that_is_no_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "autoresearch.yaml"
    path.write_bytes(b"study: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["target", "pool", "workers", "budget", "hours", "metric", "cpu", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(json_like)
def test_any_data_is_a_configuration_or_a_clear_problem(raw: object) -> None:
    try:
        assert isinstance(parse(raw), Config)
    except ProblemError as problem:
        assert problem.text
        assert "\n" not in problem.text


@pytest.mark.parametrize(
    ("kinds", "profile"), [(["cpu"], "cpu"), (["H100"], "gpu"), (["mps"], "gpu"), (["cpu", "H100"], "gpu")]
)
def test_the_profile_follows_the_pool(kinds: list[str], profile: str) -> None:
    assert Target().resolve(kinds).profile == profile


def test_a_profile_takes_the_figures_of_its_family() -> None:
    assert Target(profile="gpu-sotu").resolve(["H100"]).seconds == 300
    with pytest.raises(ConfigError, match="no figure for profile 'tpu'"):
        Target(profile="tpu").resolve(["H100"])
