"""A researcher for the fake Messages API: reads the request as a model would, and sends real edits.

It knows nothing but the request: the code it was given, how the best differs from it, and how many
experiments are wanted. So what it can do shows that the request holds what an agent needs.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

from autoresearch.constants import find_constants, set_constants
from autoresearch.patch import edits_between
from fake_messages import reply, thinking, tool_use

REWRITES = (  # (what is said, old, new): structural edits of train/train.py, tried where they fit
    ("gelu instead of squared relu", "F.relu(self.up(x)).square()", "F.gelu(self.up(x))"),
    ("plain relu", "F.relu(self.up(x)).square()", "F.relu(self.up(x))"),
    ("silu squared", "F.relu(self.up(x)).square()", "F.silu(self.up(x)).square()"),
)
SCALES = (0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
NUMBERS = re.compile(r"Submit (\d+) experiment")
CODE = re.compile(r"<code[^>]*>\n(.*?)</code>", re.DOTALL)


def texts(content: Any) -> str:
    """Return the text of content blocks."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def best_code(body: dict[str, Any]) -> str:
    """Return the best code a request tells of: the code it holds, with the diff it holds applied."""
    (code,) = CODE.findall(texts(body["system"]))
    return patched(code, texts(body["messages"][0]["content"]))


def patched(code: str, told: str) -> str:
    """Return code with the unified diff that a text holds, if any."""
    lines = code.splitlines()
    shift = 0
    hunks = re.split(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*\n", told, flags=re.MULTILINE)[1:]
    for start, body in zip(hunks[::2], hunks[1::2], strict=True):
        hunk = []
        for line in body.split("\n"):
            if line[:1] not in {" ", "+", "-"} and line != "":
                break
            hunk.append(line or " ")
        while hunk and hunk[-1].strip() == "":
            hunk.pop()
        old = [line[1:] for line in hunk if line[0] in " -"]
        new = [line[1:] for line in hunk if line[0] in " +"]
        at = int(start) - 1 + shift
        assert lines[at : at + len(old)] == old, "the diff does not fit the code"
        lines[at : at + len(old)] = new
        shift += len(new) - len(old)
    return "\n".join(lines) + "\n"


class Researcher:
    """Proposes changes of one or two constants, and some of structure; every tenth does not apply."""

    def __init__(self, *, seed: int = 0, think: int = 0, bad: float = 0.1, profile: str = "cpu") -> None:
        """Think that many tokens a call; send a share of edits that do not apply."""
        self._random = random.Random(seed)
        self._think = think
        self._bad = bad
        self._profile = profile

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        code = best_code(body)
        wanted = int(NUMBERS.findall(texts(body["messages"][-1]["content"]))[-1])
        experiments = [self._experiment(code) for _ in range(wanted)]
        answer = {"notes": f"tried {wanted} things; rates matter most", "experiments": experiments}
        usage = {}
        if self._think:
            written = len(json.dumps(answer)) // 3
            usage = {
                "output_tokens": written + self._think,
                "output_tokens_details": {"thinking_tokens": self._think},
            }
        return reply(thinking(), tool_use("submit_experiments", answer), usage=usage)

    def _experiment(self, code: str) -> dict[str, Any]:
        said, edits = self._idea(code)
        if self._random.random() < self._bad:
            edits = [{"old": "this stands nowhere in the file", "new": "x"}]
        expected = round(self._random.uniform(-0.01, 0.002), 4)
        return {"hypothesis": said, "edits": edits, "parent": None, "expected": expected, "reworks": []}

    def _idea(self, code: str) -> tuple[str, list[dict[str, str]]]:
        said, old, new = self._random.choice(REWRITES)
        if self._random.random() < 0.15 and code.count(old) == 1:
            return said, [{"old": old, "new": new}]
        found = {
            name: constant
            for name, constant in find_constants(code, self._profile).items()
            if isinstance(constant.value, float) and constant.value > 0
        }
        names = self._random.sample(sorted(found), self._random.choice((1, 1, 2)))
        changes = {name: found[name].value * self._random.choice(SCALES) for name in names}
        for name in names:
            if "BETA" in name or "RATIO" in name or "FRAC" in name or "MOMENTUM" in name:
                changes[name] = min(changes[name], 0.99)
        after = set_constants(code, changes, self._profile)
        said = ", ".join(f"{name} {found[name].value:g} -> {value:.4g}" for name, value in changes.items())
        return said, [{"old": e.old, "new": e.new} for e in edits_between(code, after)]
