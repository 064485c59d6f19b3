"""The body of a request. Deterministic: the same brief and the same count give the same bytes.

What stays the same between calls comes first and ends at a cache breakpoint: the tool, the rules, the
anchor's code; then the instructions, which people edit at any time. What is new in each call follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from autoresearch.brief import Brief
from autoresearch.experiment import Files, Goal
from autoresearch.prose import best_code, tell

TOOL_NAME = "submit_experiments"
HOUR = {"type": "ephemeral", "ttl": "1h"}  # batches are minutes apart: five-minute entries would expire

Body = dict[str, Any]


def build(brief: Brief, n: int, *, model: str, effort: str, nudge: str = "") -> Body:
    """Return what is sent, but for max_tokens. `nudge` says what was wrong with the answer before."""
    return {
        "model": model,
        "system": _system(brief),
        "tools": [tool(sorted(brief.files))],
        "messages": [{"role": "user", "content": _user(brief, n, nudge)}],
        "output_config": {"effort": effort},
    }


def tool(names: Sequence[str]) -> Mapping[str, Any]:
    """Return the tool that is the answer; edits name their file where there are several.

    Strict: every property is required and what may be absent is null, as a union, not a list of types.
    """
    edit: dict[str, Any] = {"old": {"type": "string"}, "new": {"type": "string"}}
    if len(names) > 1:
        edit = {"file": {"type": "string", "enum": list(names)}, **edit}
    experiment = {
        "hypothesis": {"type": "string", "description": "at most 20 words"},
        "parent": _nullable("string", "null: edits apply to the best code"),
        "reworks": {
            "type": "array",
            "items": {"type": "string"},
            "description": "the experiments whose ideas this does anew; mostly none",
        },
        "edits": {"type": "array", "items": _object(edit)},
        "expected": _nullable("number", "predicted change of the metric against the parent"),
    }
    whole = {
        "notes": {"type": "string", "description": "2 to 4 sentences for the lab notebook"},
        "experiments": {"type": "array", "items": _object(experiment)},
    }
    return {
        "name": TOOL_NAME,
        "description": "Submit a batch of independent experiments. Call it once, with all of them.",
        "strict": True,
        "input_schema": _object(whole),
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _nullable(kind: str, description: str) -> dict[str, Any]:
    return {"anyOf": [{"type": kind}, {"type": "null"}], "description": description}


def _system(brief: Brief) -> list[dict[str, Any]]:
    better = "lower" if brief.goal is Goal.MINIMIZE else "higher"
    study = (
        f"The metric is {brief.metric}; {better} is better. Editable: {', '.join(sorted(brief.files))}. "
        f"This is the code of {brief.anchor}, to which the brief gives the best code as a difference:"
    )
    blocks = [
        _text(_rules()),
        {**_text(f"{study}\n\n{_code(brief.anchor_files)}"), "cache_control": HOUR},
    ]
    if brief.instructions.strip():
        instructions = f"<instructions>\n{brief.instructions.strip()}\n</instructions>"
        blocks.append({**_text(instructions), "cache_control": HOUR})
    return blocks


def _user(brief: Brief, n: int, nudge: str) -> list[dict[str, Any]]:
    told = f"{best_code(brief).strip()}\n\n{tell(brief).strip()}"
    # No text of others can end the brief early.
    told = told.replace("</brief", "< /brief").replace("<brief", "< brief")
    asked = f"Submit {n} experiment{'s' if n != 1 else ''} in one call of {TOOL_NAME}."
    return [_text(f"<brief>\n{told}\n</brief>"), _text(f"{nudge} {asked}".strip())]


def _code(code: Files) -> str:
    return "\n".join(f'<code file="{name}">\n{code[name].rstrip()}\n</code>' for name in sorted(code))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@cache
def _rules() -> str:
    return (files("autoresearch.agents.claude") / "rules.md").read_text(encoding="utf-8").strip()


def canonical(value: object) -> str:
    """Return JSON that depends on nothing but the value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: object) -> str:
    """Return the sha256 of a body, or of a part of one; a text counts as it is."""
    text = value if isinstance(value, str) else canonical(value)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def prefixes(body: Body) -> Mapping[str, str]:
    """Return what many requests begin with, by sha256: the tools and the blocks of the system."""
    texts = [canonical(body["tools"]), *(block["text"] for block in body["system"])]
    return {digest(text): text for text in texts}
