"""`mcp`: the commands for agents as tools of the Model Context Protocol, over stdin and stdout.

A tool is its command: its name, help and options are read from it, and calling it runs the command in a
process of its own, so that a long `wait` holds up nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from autoresearch import __version__
from autoresearch.cli.app import app
from autoresearch.cli.common import configuration
from autoresearch.errors import UsageError, WaitTimeoutError

if TYPE_CHECKING:
    from mcp.server import Server

VERBS = (
    *("up", "down", "brief", "submit", "wait", "status", "results", "show", "diff", "log"),
    *("confirm", "cancel", "note", "budget", "stop"),
)
HIDDEN = frozenset({"as_json", "folder", "study", "watch", "raw", "task"})  # said by us, or for people
LIMIT_SECONDS = 130.0  # of a call
ANSWERS = frozenset({0, WaitTimeoutError.exit_code})  # exit codes that are no errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One command as a tool."""

    name: str
    description: str
    params: tuple[Any, ...]  # of the command line's library, which typer brings along

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its arguments."""
        return {
            "type": "object",
            "properties": {_name(param): _property(param) for param in self.params},
            "required": [_name(param) for param in self.params if param.required],
            "additionalProperties": False,
        }

    def words(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the arguments as words of its command line; UsageError for one it does not know."""
        known = {_name(param): param for param in self.params}
        unknown = [name for name in arguments if name not in known]
        if unknown:
            raise UsageError(f"{self.name} has no argument {unknown[0]}", f"it has {', '.join(known)}")
        options, positions = [], []
        for name, value in arguments.items():
            values = value if isinstance(value, list) else [value]
            if known[name].param_type_name == "argument":
                positions += [str(each) for each in values]
            else:
                options += _options(known[name], values)
        return [*options, "--", *positions] if positions else options


def verbs() -> dict[str, Verb]:
    """Return the commands for agents by name."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {name: _verb(name, commands[name]) for name in VERBS}


def _verb(name: str, command: Any) -> Verb:
    shown = tuple(param for param in command.params if param.name not in HIDDEN | {"help"})
    return Verb(name=name, description=" ".join((command.help or "").split()), params=shown)


def _name(param: Any) -> str:
    return (param.name or "").rstrip("_")


def _property(param: Any) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": _KINDS.get(param.type.name.split()[0], "string")}
    if param.multiple or param.nargs != 1:
        kind = {"type": "array", "items": kind}
    told = getattr(param, "help", None)
    return kind | ({"description": told} if told else {})


_KINDS = {"int": "integer", "integer": "integer", "float": "number", "boolean": "boolean"}


def _options(param: Any, values: Sequence[Any]) -> list[str]:
    """Return an option's words, its values joined to it so that a dash is no option's."""
    option = param.opts[0]
    if getattr(param, "is_flag", False):
        return [option] if values and values[0] is True else []
    return [f"{option}={value}" for value in values if value is not None]


def serve(folder: Path, study: str | None) -> None:
    """Serve until stdin is closed. Raises UsageError where the package mcp is missing."""
    try:
        from mcp.server.stdio import stdio_server
    except ImportError:
        raise UsageError("the MCP server needs the package mcp", "pip install 'autoresearch[mcp]'") from None
    configuration(folder)
    fixed = ["--json", "--folder", str(folder.absolute()), *(["--study", study] if study else [])]

    async def run() -> None:
        server = _server(fixed)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    asyncio.run(run())


def _server(fixed: Sequence[str]) -> Server[Any]:
    import mcp_types as types
    from mcp.server import Server, ServerRequestContext

    known = verbs()
    tools = [
        types.Tool(name=verb.name, description=verb.description, input_schema=verb.schema())
        for verb in known.values()
    ]

    async def list_tools(
        _context: ServerRequestContext[Any, Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        client = context.session.client_params
        code, said = await _call(
            known, params.name, params.arguments or {}, fixed, client.client_info.name if client else None
        )
        return types.CallToolResult(content=[types.TextContent(text=said)], is_error=code not in ANSWERS)

    return Server(
        "autoresearch",
        version=__version__,
        instructions="Read instructions.md in the study's folder first; then `brief`, `submit`, `wait`.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _call(
    known: Mapping[str, Verb],
    name: str,
    arguments: Mapping[str, Any],
    fixed: Sequence[str],
    author: str | None,
) -> tuple[int, str]:
    """Return the exit code of a command and what it answered."""
    if name not in known:
        return UsageError.exit_code, f"there is no tool {name}; there are {', '.join(known)}"
    try:
        words = known[name].words(arguments)
    except UsageError as error:
        return error.exit_code, f"{error.message}; {error.hint}"
    env = {**({"AUTORESEARCH_AUTHOR": author[:40]} if author else {}), **os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoresearch", name, *fixed, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"{name} took longer than {LIMIT_SECONDS:.0f} s; what it began goes on"
    said = (out or err).decode("utf-8", "replace").strip()
    return process.returncode or 0, said
