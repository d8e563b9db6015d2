"""The one path by which anything leaves: the order of its gates, and what each failure leaves behind."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import DpEvent, GaussianDpEvent

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import AuditError, BudgetError, EntenteError, PolicyError, Reason
from federation.core.identity import Role
from federation.core.ids import PartyId, PolicyVersion
from federation.policy.facts import Decision, Facts, Given, Obligations
from federation.policy.specs import BudgetSpec
from gateway.audit.key import make_log_key
from gateway.audit.log import open_audit_log
from gateway.budget.ledger import SqlLedger
from gateway.identity.caller import Caller
from gateway.release import Cost, Exit, Released, ReleasePath

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALLER = Caller(PartyId("marketing"), Role.MARKETING, serial="01", expires_at=NOW)
EVENT = GaussianDpEvent(10.0)
COST = Cost(EVENT, "overlap_statistics", "cube venn, epoch 1", "cube/venn/1")
YES = Decision(True, (Given("r1", "permitted", "ok", "GDPR 6"),), Obligations(), PolicyVersion("v1"))
NO = Decision(False, (Given("r2", "consent_withdrawn", "no", "GDPR 7"),), Obligations(), PolicyVersion("v1"))


def facts(origin: str) -> Facts:
    return Facts("overlap_statistics", "aggregate_statistics", origin, "marketing", NOW)


def leaving(cost: Cost | None = COST, kept: str = "") -> Exit:
    return Exit("table", {"table": "venn"}, (facts("bank"), facts("airline")), cost, kept)


class Gates:
    """All gates and the action, writing down who was called when. A gate fails where a test says so."""

    def __init__(self, **failing: Exception) -> None:
        self.calls: list[str] = []
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.failing = failing
        self.answers = {"bank": YES, "airline": YES}
        self.state = ""

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise self.failing[name]

    @property
    def active(self) -> "Gates":
        return self

    def decide(self, asked: Facts) -> Decision:
        self._called(f"decide {asked.origin}")
        return self.answers[asked.origin or ""]

    def reserve(self, *, key: str, purpose: str, what: str, event: DpEvent) -> str:
        self._called("reserve")
        assert (key, purpose, what, event) == (COST.key, COST.purpose, COST.what, COST.event)
        self.state = "reserved"
        return "entry-1"

    def commit(self, entry_id: str) -> None:
        self._called("commit")
        self.state = "committed"

    def cancel(self, entry_id: str) -> None:
        self._called("cancel")
        self.state = "cancelled"

    def check(self, *, key: str, purpose: str, what: str, event: DpEvent) -> None:
        self._called("check")
        assert (key, purpose, what, event) == (COST.key, COST.purpose, COST.what, COST.event)

    def mark_released(self, key: str) -> None:
        self._called("mark")
        assert key == COST.key
        self.state = "released"

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        self._called(kind)
        self.entries.append((kind, dict(body)))
        return len(self.entries) - 1

    def do(self, released: Released) -> str:
        self._called("do")
        assert released == Released(CALLER, (self.answers["bank"], self.answers["airline"]), 0)
        return "a noisy table"

    def digest(self, result: str) -> dict[str, Any]:
        self._called("digest")
        return {"cells": len(result)}

    def release(self, exit_: Exit | None = None) -> str:
        return ReleasePath(self, self, self).release(CALLER, exit_ or leaving(), self.do, self.digest)

    def refused(self, exit_: Exit | None = None) -> Exception:
        with pytest.raises((EntenteError, ZeroDivisionError)) as caught:
            self.release(exit_)
        assert "do" not in self.calls or "intent" in self.calls[: self.calls.index("do")]
        return caught.value


ASKED = ["decide bank", "decide airline"]


def test_the_gates_come_in_their_order() -> None:
    gates = Gates()
    assert gates.release() == "a noisy table"
    assert gates.calls == [*ASKED, "reserve", "intent", "commit", "do", "digest", "outcome"]
    about = {"what": "table", "caller": "marketing", "role": "marketing", "subject": {"table": "venn"}}
    asked = [facts("bank").to_json(), facts("airline").to_json()]
    assert gates.entries == [
        ("intent", {**about, "facts": asked, "policy": ["v1"], "budget_entry": "entry-1"}),
        ("outcome", {"intent": 0, "result": {"cells": 13}}),
    ]


def test_what_costs_nothing_passes_every_other_gate() -> None:
    gates = Gates()
    gates.release(leaving(None))
    assert gates.calls == [*ASKED, "intent", "do", "digest", "outcome"]


@pytest.mark.parametrize("cost", [COST, None])
def test_what_is_kept_is_marked_after_it_was_made_and_before_its_outcome(cost: Cost | None) -> None:
    gates = Gates()
    gates.release(leaving(cost, kept=COST.key))
    assert gates.calls[-4:] == ["do", "mark", "digest", "outcome"]


def test_what_cannot_be_marked_is_given_to_nobody() -> None:
    gates = Gates(mark=BudgetError(Reason.BAD_COST))
    assert isinstance(gates.refused(leaving(kept=COST.key)), BudgetError)
    assert gates.calls[-3:] == ["do", "mark", "failed"]


def test_of_what_is_about_a_person_only_the_codes_of_a_denial_are_told() -> None:
    gates = Gates()
    gates.answers["airline"] = NO
    error = gates.refused(Exit("offer", {}, (facts("bank"), facts("airline"))))  # not even a region is known
    assert isinstance(error, PolicyError)
    assert error.item == "consent_withdrawn"


def test_one_denial_stops_all_and_is_logged_with_its_reasons() -> None:
    gates = Gates()
    gates.answers["airline"] = NO
    error = gates.refused()
    assert isinstance(error, PolicyError)
    assert (error.reason, error.item) == (Reason.POLICY_DENIED, "consent_withdrawn: no")
    assert gates.calls == [*ASKED, "refused"]
    entry = gates.entries[0][1]
    assert entry["reasons"] == [{"rule": "r2", "code": "consent_withdrawn", "text": "no", "legal_ref": "GDPR 7"}]
    assert [given["origin"] for given in entry["facts"]] == ["bank", "airline"]


def test_permits_of_two_policy_versions_are_no_permit() -> None:
    gates = Gates()
    gates.answers["airline"] = Decision(True, (), Obligations(), PolicyVersion("v2"))
    assert isinstance(gates.refused(), PolicyError)
    assert gates.calls == [*ASKED, "refused"]
    assert gates.entries[0][1]["policy"] == ["v1", "v2"]


def test_nobody_to_ask_is_a_denial() -> None:
    gates = Gates()
    assert isinstance(gates.refused(Exit("table", {}, (), COST)), PolicyError)
    assert gates.calls == ["refused"]


def test_an_exhausted_budget_stops_and_is_logged() -> None:
    gates = Gates(reserve=BudgetError(Reason.BUDGET_EXHAUSTED, item="purpose x: 3 of 2"))
    assert isinstance(gates.refused(), BudgetError)
    assert gates.calls == [*ASKED, "reserve", "refused"]
    assert (gates.entries[0][1]["reason"], gates.entries[0][1]["item"]) == ("BUDGET_EXHAUSTED", "purpose x: 3 of 2")


def test_a_check_refuses_and_logs_like_a_release_and_spends_nothing() -> None:
    gates = Gates()
    ReleasePath(gates, gates, gates).check(CALLER, leaving())
    assert (gates.calls, gates.entries) == ([*ASKED, "check"], [])
    error = BudgetError(Reason.BUDGET_EXHAUSTED, item="purpose x: 3 of 2")
    looked, released = Gates(check=error), Gates(reserve=error)
    with pytest.raises(BudgetError):
        ReleasePath(looked, looked, looked).check(CALLER, leaving())
    released.refused()
    assert looked.entries == released.entries
    looked.answers["airline"] = NO
    with pytest.raises(PolicyError):
        ReleasePath(looked, looked, looked).check(CALLER, leaving())


def test_without_a_logged_intent_nothing_is_done_and_the_cost_is_given_back() -> None:
    gates = Gates(intent=AuditError(Reason.AUDIT_UNAVAILABLE))
    assert isinstance(gates.refused(), AuditError)
    assert gates.calls == [*ASKED, "reserve", "intent", "cancel"]
    assert gates.state == "cancelled"


def test_a_cost_that_cannot_be_committed_stops_the_release() -> None:
    gates = Gates(commit=BudgetError(Reason.BAD_COST))
    assert isinstance(gates.refused(), BudgetError)
    assert gates.calls == [*ASKED, "reserve", "intent", "commit"]


@pytest.mark.parametrize(
    ("failure", "reason"), [(ZeroDivisionError("secret"), "INTERNAL"), (PolicyError(Reason.OBLIGATION_FAILED), None)]
)
def test_a_failed_release_keeps_its_cost_and_is_logged_as_failed(failure: Exception, reason: str | None) -> None:
    gates = Gates(do=failure)
    assert gates.refused() is failure
    assert gates.calls == [*ASKED, "reserve", "intent", "commit", "do", "failed"]
    assert gates.state == "committed"
    assert gates.entries[1] == ("failed", {"intent": 0, "reason": reason or "OBLIGATION_FAILED"})


def test_what_has_no_logged_outcome_does_not_reach_the_caller() -> None:
    gates = Gates(outcome=AuditError(Reason.AUDIT_UNAVAILABLE))
    assert isinstance(gates.refused(), AuditError)
    assert gates.state == "committed"


@pytest.mark.parametrize("gate", ["decide bank", "reserve", "intent", "commit", "do", "digest", "outcome", "refused"])
def test_whatever_gate_breaks_nothing_is_released_without_an_intent_on_record(gate: str) -> None:
    gates = Gates(**{gate: ZeroDivisionError()})
    if gate == "refused":
        gates.answers["bank"] = NO
    gates.refused()
    if "do" in gates.calls:
        assert gates.entries[0][0] == "intent"
        assert gates.state == "committed"


def test_the_real_gates_together(tmp_path: Path, clock: FixedClock) -> None:
    spec = BudgetSpec(
        period_start="2026-01-01", period_end="2027-01-01", delta=1e-6, epsilon=9, purposes={COST.purpose: 9}
    )
    ledger = SqlLedger(open_database(tmp_path / "gateway.db"), lambda: spec, clock)
    make_log_key(tmp_path, "test-audit")
    engine = open_database(tmp_path / "gateway.db")
    log = open_audit_log(engine, tmp_path, clock)
    path = ReleasePath(Gates(), ledger, log)
    seen: list[tuple[str, int]] = []

    def do(released: Released) -> str:
        seen.append((ledger.overview().entries[0].state, log.size()))
        return "table"

    def digest(result: str) -> dict[str, Any]:
        return {"result": result}

    assert path.release(CALLER, leaving(), do, digest) == "table"
    assert seen == [("committed", 1)]  # paid for and announced, on disk, before anything was made
    assert path.release(CALLER, leaving(), do, digest) == "table"
    assert len(ledger.overview().entries) == 1

    engine.dispose()
    with open_database(tmp_path / "gateway.db").begin() as connection:
        connection.exec_driver_sql("DROP TABLE audit_entries")
    other = Cost(EVENT, COST.purpose, "cube other", "cube/other/1")
    with pytest.raises(AuditError):
        path.release(CALLER, leaving(other), do, digest)
    assert len(seen) == 2
    assert [entry.what for entry in ledger.overview().entries] == [COST.what]
