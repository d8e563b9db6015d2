"""Entries of the audit log as lines for people: what was asked or done, by whom, and why it was refused."""

import json
from dataclasses import dataclass
from typing import Any

from federation.core.errors import DataError, Reason

_ABOUT = ("table", "epoch", "from", "product", "model", "run", "version", "approved")
"""What names an entry's object, in this order, in its subject or else in the entry itself."""
MAX_SHORT = 20
"""Digits of a digest that are shown."""


@dataclass(frozen=True)
class Line:
    """One entry."""

    index: int
    at: str
    kind: str
    who: str
    about: str
    why: str
    """Of a refusal or an end: the reasons' codes, or the reason with what it is about; empty else."""


def line_of(index: int, entry: bytes) -> Line:
    """Reads one entry. Raises DataError (BAD_FIELD), naming it."""
    try:
        value = json.loads(entry)
        kind, body = str(value["kind"]), value["body"]
        subject = body.get("subject") or body
        parts = [f"{name} {_short(subject[name])}" for name in _ABOUT if subject.get(name) not in (None, "")]
        if "recipient" in subject:
            parts.append(f"to {_short(subject['recipient'])}")
        if "intent" in body:
            parts.append(f"of entry {body['intent']}")
        what = body.get("what")
        who = body.get("caller") or body.get("by") or ""
        return Line(
            index, str(value["at"]), f"{kind}: {what}" if what else kind, str(who), ", ".join(parts), _why(body)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item=f"entry {index} of the log", detail=str(exc)) from exc


def _why(body: dict[str, Any]) -> str:
    reasons = body.get("reasons") or (body.get("result") or {}).get("reasons") or ()
    if reasons:
        return ", ".join(dict.fromkeys(str(reason["code"]) for reason in reasons))
    return ": ".join(str(body[name]) for name in ("reason", "item") if body.get(name))


def _short(value: Any) -> str:
    text = str(value)
    return text[:MAX_SHORT] if len(text) > 2 * MAX_SHORT else text
