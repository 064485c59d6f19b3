"""`autoresearch mcp`: a real client talks to the real server over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from autoresearch.cli.mcp import HIDDEN, VERBS, verbs
from autoresearch.errors import UsageError
from autoresearch.study import open_study
from lab import ROOT, Lab
from test_cli import CONFIG


def test_every_verb_is_a_tool_with_a_sound_schema_and_no_hidden_option() -> None:
    for name, verb in verbs().items():
        schema = verb.schema()
        Draft202012Validator.check_schema(schema)
        assert verb.description, name
        assert not HIDDEN & set(schema["properties"]), name
    assert verbs()["submit"].schema()["properties"]["set"]["type"] == "array"
    assert verbs()["wait"].schema()["properties"]["since"]["type"] == "integer"
    assert verbs()["wait"].schema()["properties"]["timeout"]["type"] == "number"
    assert verbs()["submit"].schema()["properties"]["dry_run"]["type"] == "boolean"
    assert verbs()["cancel"].schema()["required"] == ["experiments"]


def test_what_begins_with_a_dash_is_a_value_and_no_option() -> None:
    known = verbs()
    assert known["note"].words({"text": "--json"}) == ["--", "--json"]
    assert known["submit"].words({"set": ["X=1"], "hypothesis": "-m", "dry_run": True}) == [
        "--set=X=1",
        "--hypothesis=-m",
        "--dry-run",
    ]
    assert known["submit"].words({"dry_run": False, "parent": None}) == []


def test_an_unknown_argument_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="status has no argument folder"):
        verbs()["status"].words({"folder": "/etc"})


@pytest.fixture
def study(lab: Lab) -> Lab:
    (lab.folder / "autoresearch.yaml").write_text(CONFIG)
    lab.commit("configured")
    lab.study().close()
    return lab


async def talk(lab: Lab) -> dict[str, Any]:
    """Return what a client hears that does what an agent would."""
    from mcp import ClientSession, StdioServerParameters, stdio_client
    from mcp.types import Implementation

    heard: dict[str, Any] = {}
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "autoresearch", "mcp", "--folder", str(lab.folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    client = Implementation(name="a-client", version="1")
    async with (
        stdio_client(server) as (read, write),
        ClientSession(read, write, client_info=client) as session,
    ):
        await session.initialize()

        async def call(name: str, **arguments: Any) -> tuple[bool, Any]:
            result = await session.call_tool(name, arguments)
            said = result.content[0].text
            try:
                return bool(result.is_error), json.loads(said)
            except ValueError:
                return bool(result.is_error), said

        heard["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        heard["submit"] = await call("submit", set=["X=1.5"], request_id="r")
        heard["again"] = await call("submit", set=["X=1.5"], request_id="r")
        heard["refused"] = await call("submit", set=["Z=1"])
        heard["note"] = await call("note", text="--json is no option here")
        heard["unknown"] = await call("status", folder="/etc")
        order: list[str] = []

        async def noted(name: str, **arguments: Any) -> tuple[bool, Any]:
            found = await call(name, **arguments)
            order.append(name)
            return found

        waits = [asyncio.create_task(noted("wait", since=0, min_done=9, timeout=6)) for _ in range(2)]
        heard["show"] = await noted("show", experiment="e0002")
        heard["waits"] = await asyncio.gather(*waits)
        heard["order"] = order
    return heard


@pytest.mark.slow
def test_an_agent_drives_a_study_over_mcp(study: Lab) -> None:
    opened = open_study(study.folder, study.folder / ".autoresearch")
    with opened.dispatching():  # so that there is something to wait for
        heard = asyncio.run(talk(study))
    opened.close()
    assert heard["tools"] == list(VERBS)
    failed, first = heard["submit"]
    assert (failed, first["experiments"]) == (False, ["e0002"])
    assert heard["again"] == heard["submit"]
    failed, error = heard["refused"]
    assert failed
    assert error["error"]["code"] == "refused"
    assert heard["note"][1]["written"]
    assert heard["unknown"][0]
    assert "no argument folder" in heard["unknown"][1]
    assert heard["show"][1]["author"] == "a-client"
    assert [failed for failed, _ in heard["waits"]] == [False, False], "a wait in vain is an answer"
    assert {answer["error"]["code"] for _, answer in heard["waits"]} == {"timeout"}
    assert heard["order"] == ["show", "wait", "wait"], "they hold up nothing else"
