"""Groups reasons: what differs between two rows that were refused for the same cause is taken out of the
sentence. Pure."""

import re

#: A cause is a heading.
LONGEST = 200

#: The first pattern that fits replaces what it matches. Values in quotes first, since they hold the rest.
_PARTS = (
    (re.compile(r"\"[^\"]*\"|'[^']*'|‘[^’]*’|“[^”]*”"), "'…'"),
    (re.compile(r"[^\s@,;:<>()]+@[^\s@,;:<>()]+\.[^\s@,;:<>()]+"), "…@…"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "…"),
    (re.compile(r"\b(?=[0-9a-zA-Z]*\d)[0-9a-zA-Z]{12,}\b"), "…"),
    (re.compile(r"\d+(?:[.,:/-]\d+)*"), "N"),
)

#: What an endpoint says first is its verdict, and no value.
_STATUS = re.compile(r"\banswered (\d{3})\b")


def cause(reason: str) -> str:
    """The reason without the values of one row: the same text for every row with the same trouble."""
    found = _STATUS.search(reason)
    status = found.group(1) if found else ""
    text = " ".join(reason.split())
    for pattern, instead in _PARTS:
        text = pattern.sub(instead, text)
    if status:
        text = text.replace("answered N", f"answered {status}", 1)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
