"""Text that somebody else wrote (a log, a hypothesis, an error message, code) is data.

What is shown of it passes through here, so that it can steer neither a terminal nor a reader: `clean` for a
line, `clean_block` for code, `quoted` for what an agent reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

LINE_CHARS = 200
MARKS = 2  # combining marks on one letter, that are kept
_TAG = re.compile(r"<(?=[/!?|\w])|(?<=[\w/\"'|])>")  # of something like <system>, </data>, <|im_start|>
_FENCE = re.compile(r"`{3,}|~{3,}")
_ROLE = re.compile(r"\b(human|user|assistant|system)\s*:", re.IGNORECASE)


def as_text(text: str) -> str:
    """Return a text without what no file and no database takes: bytes that were no UTF-8."""
    return text.encode(errors="ignore").decode()


def clean_block(text: str) -> str:
    r"""Return lines, such as those of code, that cannot steer a terminal; line ends and tabs stay.

    What could steer or hide is shown as an escape, `\x1b` or `\u202e`: dropped, it would hide what the code
    holds.
    """
    return "".join(c if c in "\n\t" or not _steers(c) else _escaped(c) for c in text)


def clean(text: str, limit: int = LINE_CHARS) -> str:
    """Return one line of text that can steer neither a terminal nor a reader.

    Control, format, surrogate and unassigned characters (escape sequences, bidirectional overrides, tag
    characters) are dropped, so are variation selectors and combining marks beyond MARKS a letter; white
    space is folded, and the end is cut at `limit` characters.
    """
    kept = _thinned(" " if c.isspace() else c for c in text if c.isspace() or not _steers(c))
    folded = " ".join("".join(kept).split())
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."


def quoted(text: str, limit: int = LINE_CHARS) -> str:
    """Return one clean line for an agent, in which nothing looks like more than data.

    Tags, code fences and names of roles are made unlike what a prompt is built of.
    """
    line = _TAG.sub(lambda found: "\u2039" if found[0] == "<" else "\u203a", clean(text, limit))
    return _ROLE.sub(r"\1 -", _FENCE.sub("'", line))


def _steers(c: str) -> bool:
    """Whether a character moves, hides or ends something instead of being read."""
    selector = "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef"
    return selector or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escaped(c: str) -> str:
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _thinned(text: Iterable[str]) -> Iterator[str]:
    """Yield characters, of combining marks no more than MARKS after another."""
    marks = 0
    for c in text:
        marks = marks + 1 if unicodedata.combining(c) else 0
        if marks <= MARKS:
            yield c
