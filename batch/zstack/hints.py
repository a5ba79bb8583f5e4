"""An operator's text taken apart again: what ZStack said, and the hint that was put behind it."""

from __future__ import annotations

from typing import Final

from batch.zstack.codes import AGENT_FAILED, CODES, DENIED, FAMILIES, HTTP, UNKNOWN

_RULES: Final = (*CODES.values(), *FAMILIES.values(), *HTTP.values(), DENIED, AGENT_FAILED, UNKNOWN)
_TAILS: Final = frozenset(f" ({hint})" for rule in _RULES for hint in (rule.hint, rule.hint_zh) if hint)


def apart(told: str) -> tuple[str, str]:
    """Return the text and the hint of an ``ApiError.told``; a text with no hint of ours stays whole.

    >>> apart("slow (the session ended)")
    ('slow', 'the session ended')
    """
    tail = next((tail for tail in _TAILS if told.endswith(tail)), "")
    return (told.removesuffix(tail), tail[2:-1]) if tail else (told, "")
