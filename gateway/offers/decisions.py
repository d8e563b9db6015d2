"""What compliance reads: the decisions about offers, out of the audit log."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from federation.policy.facts import Given
from gateway.offers.entries import KIND, NOTHING

_PAGE = 1_000


class AuditReader(Protocol):
    """The log, for reading."""

    def size(self) -> int:
        """How many entries there are."""
        ...

    def entries(self, start: int, end: int) -> list[bytes]:
        """Canonical JSON of entries [start, end), which must exist."""
        ...


@dataclass(frozen=True)
class LoggedDecision:
    """One decision as the log has it: no handle, and no time of a consent."""

    audit_index: int
    at: str
    origin: str
    recipient: str
    product: str
    permitted: bool
    reasons: tuple[Given, ...]
    policy_version: str
    masked: Mapping[str, str]  # field to mask, for permitted offers


def list_decisions(log: AuditReader, after: int, limit: int) -> list[LoggedDecision]:
    """Decisions about offers after an audit index (0: from the start), oldest first.

    A decision that a crash interrupted is in the log twice; an offer refused when it was handed out is there as
    permitted first and as refused later.
    """
    found: list[LoggedDecision] = []
    start, size = (after + 1 if after else 0), log.size()
    while start < size and len(found) < limit:
        page = log.entries(start, min(start + _PAGE, size))
        for index, leaf in enumerate(page, start=start):
            decision = _read(index, json.loads(leaf))
            if decision is not None and len(found) < limit:
                found.append(decision)
        start += len(page)
    return found


def _read(index: int, entry: Mapping[str, Any]) -> LoggedDecision | None:
    kind, body = entry["kind"], entry["body"]
    if kind == "refused" and body.get("what") == KIND:
        subject = body["subject"]
        reasons = tuple(Given(**g) for g in body.get("reasons", ()))
        version = ",".join(body.get("policy", ()))
        masked = {}
    elif kind == "outcome" and body["result"].get("what") == KIND:
        subject = body["result"]
        reasons, version = (), subject["policy"]
        masked = {pair["field"]: pair["mask"] for pair in subject["masked"]}
    elif kind == "outcome" and body["result"].get("what") == NOTHING:
        subject = body["result"]
        reasons, version, masked = tuple(Given(**g) for g in subject["reasons"]), subject["policy"], {}
    else:
        return None
    return LoggedDecision(
        audit_index=index,
        at=entry["at"],
        origin=subject["from"],
        recipient=subject["recipient"],
        product=subject["product"],
        permitted=not reasons and kind == "outcome",
        reasons=reasons,
        policy_version=version,
        masked=masked,
    )
