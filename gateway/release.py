"""The one path by which anything leaves: identity -> policy -> spend -> audit intent -> do -> audit outcome.

Start reading here. Whatever is released (a noisy table, a model, an offer) goes through ``ReleasePath.release`` and
nothing else gives it away. The order is the promise:

1. identity: there is a caller, from a certificate (the interceptor checked it; we only take it along);
2. policy: every party whose data is in the release permits it, under one pinned version;
3. spend: the privacy cost is reserved in the ledger, durably, before any noise is drawn;
4. audit intent: what is about to leave, to whom and why, is in the log, durably;
5. do: the release is made, and stored. If the process dies here, budget is wasted and the log shows an intent without
   an outcome;
6. mark: the ledger notes, durably, that what the cost paid for is stored and will be seen. It is never made again for
   that cost: where the store is lost afterwards, step 3 refuses;
7. audit outcome: the digest of what left, or that it failed. Only then does the caller get it.

If any step raises, nothing is released. A cost is given back only where ``do`` cannot have started (step 4 failed).
A process that dies between 5 and 6 leaves a stored answer without a mark; whoever is given it next marks it first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dp_accounting import DpEvent

from federation.core.errors import AuditError, EntenteError, PolicyError, Reason
from federation.policy.facts import Decision, Facts
from gateway.identity.caller import Caller

T = TypeVar("T")
AGGREGATES = frozenset({"table", "model", "training_attempt"})
"""Kinds of exits whose reasons name columns and rules. Of others only codes are told: their reasons are a person's."""
MAX_ITEM = 300
"""Letters that a caller is told of why not; the log has all."""


class Terms(Protocol):
    """One policy version."""

    def decide(self, facts: Facts) -> Decision:
        """Permit or deny with reasons; never raises for missing input."""
        ...


class PolicyGate(Protocol):
    """Knows the one active version."""

    @property
    def active(self) -> Terms:
        """The version in force now; what it returns never changes."""
        ...


class Ledger(Protocol):
    """Counts privacy loss; durable when a call returns."""

    def reserve(self, *, key: str, purpose: str, what: str, event: DpEvent) -> str:
        """Reserves a cost and returns the entry's id. The same key with the same event returns the same entry.

        Raises:
            BudgetError: BUDGET_EXHAUSTED, BAD_COST; ANSWER_LOST where the key is marked as released.
        """
        ...

    def check(self, *, key: str, purpose: str, what: str, event: DpEvent) -> None:
        """Raises what ``reserve`` would raise now; reserves nothing."""
        ...

    def mark_released(self, key: str) -> None:
        """What the key names is stored, and about to be shown: ``reserve`` refuses the key from now on."""
        ...

    def commit(self, entry_id: str) -> None:
        """The release was made (or may have been)."""
        ...

    def cancel(self, entry_id: str) -> None:
        """The release cannot have been made: gives the cost back."""
        ...


class AuditLog(Protocol):
    """Append-only; durable when a call returns."""

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        """Appends an entry and returns its index. Raises AuditError (AUDIT_UNAVAILABLE)."""
        ...


@dataclass(frozen=True)
class Cost:
    """What a release costs one person across the alliance."""

    event: DpEvent
    purpose: str
    what: str  # for example "cube venn, epoch 2026-11-01.1"
    key: str  # the same release has the same key, so that a repetition after a crash pays once


@dataclass(frozen=True)
class Exit:
    """One thing that is about to leave."""

    kind: str  # "table", "model", "training_attempt" or "offer"
    subject: Mapping[str, Any]  # what it is, for the log: names and digests, no handle
    facts: Sequence[Facts]  # one per party whose data is in it; all must be permitted
    cost: Cost | None = None  # None: nothing statistical leaves
    kept: str = ""  # the key of the cost, of now or of then, of what ``do`` has stored when it returns; "": nothing
    terms: Terms | None = None  # the version that the caller took its limits from; None pins the one in force


@dataclass(frozen=True)
class Released:
    """What ``release`` hands to the action that makes the release."""

    caller: Caller
    decisions: tuple[Decision, ...]
    intent: int  # audit index


class ReleasePath:
    """Puts the four gates in order."""

    def __init__(self, policy: PolicyGate, ledger: Ledger, audit: AuditLog) -> None:
        self._policy, self._ledger, self._audit = policy, ledger, audit

    def release(
        self, caller: Caller, leaving: Exit, do: Callable[[Released], T], digest: Callable[[T], Mapping[str, Any]]
    ) -> T:
        """Lets one thing leave, or raises.

        Args:
            caller: Who asked.
            leaving: What, whose, and at what cost.
            do: Makes the release; called once, after everything above is durable.
            digest: What the log keeps of the result: hashes and counts, never people.

        Raises:
            PolicyError: POLICY_DENIED, with the reasons as the item; the refusal is in the log.
            BudgetError: see Ledger.
            AuditError: AUDIT_UNAVAILABLE; then nothing has left.
        """
        about = _about(caller, leaving)
        decisions = self._decide(leaving, about)
        entry = None
        if leaving.cost is not None:
            cost = leaving.cost
            try:
                entry = self._ledger.reserve(key=cost.key, purpose=cost.purpose, what=cost.what, event=cost.event)
            except EntenteError as exc:
                self.refuse(caller, leaving, exc)
                raise
        try:
            facts = [facts.to_json() for facts in leaving.facts]
            versions = sorted({d.version for d in decisions})
            intent = self._audit.append(
                "intent", {**about, "facts": facts, "policy": versions, "budget_entry": entry or ""}
            )
        except AuditError:
            if entry is not None:
                self._ledger.cancel(entry)
            raise
        if entry is not None:
            self._ledger.commit(entry)
        try:
            result = do(Released(caller, decisions, intent))
            if leaving.kept:
                self.mark(leaving.kept)
        except Exception as exc:
            reason = exc.reason if isinstance(exc, EntenteError) else Reason.INTERNAL
            self._audit.append("failed", {"intent": intent, "reason": str(reason)})
            raise
        self._audit.append("outcome", {"intent": intent, "result": dict(digest(result))})
        return result

    def check(self, caller: Caller, leaving: Exit) -> tuple[Decision, ...]:
        """Raises, and logs, what ``release`` would refuse by now (steps 2 and 3); spends nothing, and nothing leaves.

        Returns what the policy decided, with its obligations.

        For what depends on the people in the data and has to come before ``release``: whoever would be refused anyway
        is refused here, and learns nothing of it.

        Raises:
            PolicyError: POLICY_DENIED.
            BudgetError: see Ledger.
            AuditError: AUDIT_UNAVAILABLE.
        """
        decisions = self._decide(leaving, _about(caller, leaving))
        if leaving.cost is not None:
            cost = leaving.cost
            try:
                self._ledger.check(key=cost.key, purpose=cost.purpose, what=cost.what, event=cost.event)
            except EntenteError as exc:
                self.refuse(caller, leaving, exc)
                raise
        return decisions

    def refuse(self, caller: Caller, leaving: Exit, error: EntenteError) -> None:
        """Logs a refusal that is not the rules'. Raises AuditError."""
        self._audit.append("refused", {**_about(caller, leaving), "reason": str(error.reason), "item": error.item})

    def mark(self, key: str) -> None:
        """Step 6 for what is stored only after its outcome is in the log, like a model; before anybody can see it."""
        self._ledger.mark_released(key)

    def _decide(self, leaving: Exit, about: Mapping[str, Any]) -> tuple[Decision, ...]:
        """All decisions, or PolicyError after the refusal is in the log. Nothing to decide about is a denial."""
        terms = leaving.terms or self._policy.active  # pinned: what comes into force now is for the next release
        # Undated, as the log has it: so a replay decides on the same facts, and no reason names a consent's time.
        decisions = tuple(terms.decide(facts.undated()) for facts in leaving.facts)
        versions = {decision.version for decision in decisions}
        if decisions and all(d.permitted for d in decisions) and len(versions) == 1:
            return decisions
        reasons = [given for d in decisions if not d.permitted for given in d.reasons]
        words = [f"{given.code}: {given.text}" if leaving.kind in AGGREGATES else given.code for given in reasons]
        item = ", ".join(dict.fromkeys(words))[:MAX_ITEM] or "no single policy version permits it"
        facts = [facts.to_json() for facts in leaving.facts]
        given = [reason.to_json() for reason in reasons]
        self._audit.append("refused", {**about, "facts": facts, "reasons": given, "policy": sorted(versions)})
        raise PolicyError(Reason.POLICY_DENIED, item=item.removesuffix("."))


def _about(caller: Caller, leaving: Exit) -> dict[str, Any]:
    """What every entry of the log says of what leaves."""
    subject = dict(leaving.subject)
    return {"what": leaving.kind, "caller": caller.party, "role": str(caller.role), "subject": subject}
