"""Text that somebody else wrote (a log, a hypothesis, an error message) is data.

What is shown of it passes through `clean`, so that it can steer neither a terminal nor a reader.
"""

from __future__ import annotations

import unicodedata

LINE_CHARS = 200


def clean(text: str, limit: int = LINE_CHARS) -> str:
    """Return one line of text that can steer neither a terminal nor a reader.

    Control, format, surrogate and unassigned characters (escape sequences, bidirectional
    overrides) are dropped, white space is folded, and the end is cut at `limit` characters.
    """
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    folded = " ".join(kept.split())
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."
