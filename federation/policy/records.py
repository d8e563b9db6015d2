"""Decisions as the audit log has them: what was asked and said, and under which version. Nobody is named there.

Read from entries of kind "intent" (a release that the policy permitted) and "refused" (see ``gateway.release``). What
another gate refused (the rules for offers, the budget) is kept apart: no policy could have changed it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from federation.core.clock import from_text
from federation.core.errors import DataError, Reason
from federation.core.ids import PolicyVersion
from federation.policy.facts import Facts, Given, facts_from_json

OTHER_GATES = frozenset({"offer-rules"})
"""Names that stand for a rule where it is not one of the policy."""


@dataclass(frozen=True)
class Recorded:
    """One decision of the log."""

    index: int
    at: datetime
    what: str  # "offer", "cube", "model", ...
    permitted: bool
    facts: tuple[Facts, ...]  # one per party whose data was in it
    reasons: tuple[Given, ...]  # of the policy; empty for a permit
    other: tuple[Given, ...]  # of other gates
    version: PolicyVersion

    @property
    def by_policy(self) -> bool:
        """Whether the policy's own answer is on record."""
        return self.permitted or bool(self.reasons)


def recorded(entries: Iterable[bytes], start: int = 0, since: datetime | None = None) -> Iterator[Recorded]:
    """The decisions among entries of the log.

    Args:
        entries: Canonical JSON, in order.
        start: Index of the first.
        since: Leaves out what is older.

    Raises:
        DataError: BAD_FIELD, naming the entry.
    """
    for index, entry in enumerate(entries, start):
        found = read_entry(index, entry)
        if found is not None and (since is None or found.at >= since):
            yield found


def read_entry(index: int, entry: bytes) -> Recorded | None:
    """The decision that an entry holds, or None when it holds none. Raises DataError (BAD_FIELD)."""
    try:
        value = json.loads(entry)
        kind, body = value["kind"], value["body"]
        if kind not in {"intent", "refused"} or not body.get("facts") or len(body.get("policy", ())) != 1:
            return None
        reasons = tuple(Given(**reason) for reason in body.get("reasons", ()))
        return Recorded(
            index=index,
            at=from_text(value["at"]),
            what=str(body["what"]),
            permitted=kind == "intent",
            facts=tuple(facts_from_json(facts) for facts in body["facts"]),
            reasons=tuple(given for given in reasons if given.rule not in OTHER_GATES),
            other=tuple(given for given in reasons if given.rule in OTHER_GATES),
            version=PolicyVersion(body["policy"][0]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DataError(Reason.BAD_FIELD, item=f"entry {index} of the log", detail=str(exc)) from exc


def intent_of(entry: bytes) -> int | None:
    """The index of the decision whose outcome an entry is, or None when it is no outcome."""
    value = json.loads(entry)
    intent = value["body"].get("intent") if value.get("kind") == "outcome" else None
    return intent if isinstance(intent, int) else None


def ended_by(entry: bytes) -> tuple[Given, ...]:
    """Why nothing left under an intent after all, from the entry that closed it; empty where something did."""
    result = json.loads(entry)["body"].get("result", {})
    return tuple(Given(**reason) for reason in result.get("reasons", ()))


def route_of(facts: Facts) -> dict[str, Any]:
    """What a request was, for people who look at samples: no dates of consents, which could point to somebody."""
    names = ("purpose", "data_category", "origin", "recipient", "channel", "subject_region")
    return {name: getattr(facts, name) for name in names} | {"fields": sorted(facts.fields)}
