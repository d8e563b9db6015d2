"""A small alliance for tests of consent and offers: real stores and desk, a tiny policy, a fake switchboard."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import Engine, event

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.data import PartnerData
from federation.client.handles import HandleBook
from federation.core.clock import FixedClock, to_text
from federation.core.database import open_database
from federation.core.errors import AuditError, EntenteError, Reason
from federation.core.identity import Role
from federation.core.ids import CustomerId, Handle, PartyId, PolicyVersion
from federation.offers.offer import Offer
from federation.policy.facts import ConsentFact, Decision, Facts, Given, Obligations
from federation.policy.specs import OfferSpec, ProductSpec
from federation.policy.transfers import Export
from gateway.consent.sql import SqlConsentStore
from gateway.consent.store import ConsentRecord
from gateway.identity.caller import Caller, set_caller
from gateway.offers.service import OfferDesk
from gateway.offers.sql import SqlOfferBook
from gateway.policy.transfers import SqlTransfers
from gateway.release import ReleasePath
from gateway.rpc.consent import ConsentServicer
from gateway.rpc.offers import OfferServicer
from tests.conftest import NOW

BANK, INSURER, AIRLINE = PartyId("bank"), PartyId("insurer"), PartyId("airline")
PARTNERS = (BANK, INSURER, AIRLINE)
SPEC = OfferSpec(
    products=(
        ProductSpec(id="home", owner="insurer", display_name="Home"),
        ProductSpec(id="motor", owner="insurer", display_name="Motor"),
        ProductSpec(id="term_life", owner="insurer", display_name="Term life"),
        ProductSpec(id="miles_card", owner="airline", display_name="Miles"),
    ),
    channels=("email", "phone"),
    attributes=("age", "job"),
    cooling_off_days=30,
)
VERSION = PolicyVersion("v1")
PERSON = 7
"""A customer of all three partners in the tests."""


def caller(party: PartyId) -> Caller:
    return Caller(party, Role.PARTNER, "01", NOW + timedelta(days=30))


def handle(party: PartyId, person: int) -> Handle:
    return Handle(party.encode().ljust(12, b".") + person.to_bytes(4, "big"))


def second_handle(party: PartyId, person: int, which: int = 1) -> Handle:
    """Another of the party's names for the person."""
    return Handle(f"{party}.{which}".encode().ljust(12, b"+") + person.to_bytes(4, "big"))


def given(**changed: Any) -> ConsentFact:
    fact = {
        "status": "given",
        "recipients": frozenset(PARTNERS),
        "given_at": NOW - timedelta(days=10),
        "expires_at": NOW + timedelta(days=100),
        "separate": True,
        "cross_border": True,
        "jurisdiction": "GDPR",
    }
    return ConsentFact(**(fact | changed))


def record(party: PartyId, person: int, fact: ConsentFact | None = None) -> ConsentRecord:
    fact = fact or given()
    return ConsentRecord(handle(party, person), "offer_sharing", fact, "PT", fact.given_at or NOW)


def an_offer(person: int = PERSON, party: PartyId = BANK, **changed: Any) -> Offer:
    content = {
        "offer_id": f"{party}-{person}",
        "handle": handle(party, person),
        "product": "home",
        "recipient": "insurer",
        "channel": "email",
        "score_band": "top5",
        "purpose": "offer_sharing",
        "benefit": "The first month is free.",
        "attributes": {"age": "41"},
        "expires_at": NOW + timedelta(days=20),
    }
    return Offer(**(content | changed))


@dataclass
class FakePolicy:
    """Both consents live and named; age in bands, job dropped; a channel that is switched off."""

    version: PolicyVersion = VERSION
    offers: OfferSpec = SPEC
    partners: tuple[str, ...] = PARTNERS
    closed_channels: set[str] = field(default_factory=set)
    masks: dict[str, str] = field(default_factory=lambda: {"age": "band(30,60)", "job": "drop"})

    @property
    def active(self) -> "FakePolicy":
        return self

    def decide(self, facts: Facts) -> Decision:
        found = [*self._judge("", facts.consent, facts)]
        if facts.data_category == "offer":
            found += self._judge("recipient_", facts.recipient_consent, facts)
        if facts.channel in self.closed_channels:
            found.append(Given("channels", "forbidden", "closed", "law 1"))
        if found:
            return Decision(False, tuple(found), Obligations(), self.version)
        return Decision(True, (Given("offers", "permitted", "yes"),), Obligations(self.masks), self.version)

    def export(self, facts: Facts) -> Export | None:
        return None

    def _judge(self, prefix: str, consent: ConsentFact | None, facts: Facts) -> list[Given]:
        if consent is None:
            return [Given("offers", f"{prefix}consent_missing", "none", "law 2")]
        if consent.status != "given":
            return [Given("offers", f"{prefix}consent_{consent.status}", "ended", "law 2")]
        if consent.expires_at is None or facts.at is None or facts.at >= consent.expires_at:
            return [Given("offers", f"{prefix}consent_expired", "too old", "law 2")]
        return []


class FakeLog:
    """An audit log in a list, which can break; ``after`` runs when a kind was appended."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.broken = False
        self.crash_after = ""

    def append(self, kind: str, body: Mapping[str, Any]) -> int:
        if self.broken:
            raise AuditError(Reason.AUDIT_UNAVAILABLE)
        self.leaves.append(json.dumps({"at": to_text(NOW), "kind": kind, "body": dict(body)}).encode())
        if kind == self.crash_after:
            raise KeyboardInterrupt
        return len(self.leaves) - 1

    def size(self) -> int:
        return len(self.leaves)

    def entries(self, start: int, end: int) -> list[bytes]:
        assert 0 <= start <= end <= len(self.leaves)
        return self.leaves[start:end]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        entries = [json.loads(leaf) for leaf in self.leaves]
        return [entry["body"] for entry in entries if entry["kind"] == kind]


class FakeSwitchboard:
    """The same number is the same person."""

    def __init__(self, people: Mapping[PartyId, Sequence[int]]) -> None:
        self.people = {party: set(numbers) for party, numbers in people.items()}
        self.second: dict[tuple[PartyId, int], list[Handle]] = {}
        """Further handles of a person at a party; see ``second_handle``."""

    def handles(self, party: PartyId, handle_: Handle, most: int) -> list[tuple[PartyId, Handle]]:
        number = int.from_bytes(handle_[12:], "big")
        found = [(at, handle(at, number)) for at, people in self.people.items() if number in people]
        found += [(at, other) for (at, who), others in self.second.items() if who == number for other in others]
        return sorted(found)[:most] if (party, handle_) in found else []


@dataclass
class World:
    """The gateway's side."""

    engine: Engine
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    policy: FakePolicy = field(default_factory=FakePolicy)
    log: FakeLog = field(default_factory=FakeLog)
    switchboard: FakeSwitchboard = field(
        default_factory=lambda: FakeSwitchboard({BANK: [PERSON, 8, 9], INSURER: [PERSON, 8], AIRLINE: [PERSON]})
    )
    key: bytes = b"k" * 32
    check_standing: Callable[[Caller], None] = lambda _: None

    def __post_init__(self) -> None:
        self.book = SqlOfferBook(self.engine, self.clock)
        self.consents = SqlConsentStore(self.engine, self.clock, self.book.drop_for_consent)
        no_ledger: Any = None
        self.desk = OfferDesk(
            book=self.book,
            consents=self.consents,
            transfers=SqlTransfers(self.engine),
            switchboard=self.switchboard,
            terms=lambda: self.policy,
            check_standing=lambda who: self.check_standing(who),  # noqa: PLW0108  (tests set it later)
            release=ReleasePath(self.policy, no_ledger, self.log),
            audit=self.log,
            mask_key=self.key,
            clock=self.clock,
        )

    def agree(self) -> None:
        """Everybody on the switchboard agreed to offers."""
        for party, people in self.switchboard.people.items():
            self.consents.record(party, [record(party, person) for person in sorted(people)])

    def propose(self, *offers: Offer, party: PartyId = BANK) -> list[Any]:
        return self.desk.propose(caller(party), offers)

    def pull(self, party: PartyId = INSURER, limit: int = 100) -> list[Any]:
        return self.desk.pull(caller(party), limit)

    def refusals(self) -> list[list[str]]:
        return [[given["code"] for given in body["reasons"]] for body in self.log.of_kind("refused")]

    def stub(self, party: PartyId) -> "Stub":
        return Stub(self, party)


def offer_from(party: PartyId, product: str, world: World, recipient: str = "insurer") -> list[str]:
    """What an offer about the person is refused for, once it is decided."""
    offer = an_offer(party=party, offer_id=f"{party}-{product}-{world.clock.at}", product=product, recipient=recipient)
    offer = replace(offer, expires_at=world.clock.at + timedelta(days=20))
    before = len(world.log.of_kind("refused"))
    world.propose(offer, party=party)
    world.desk.decide_waiting()
    return [code for codes in world.refusals()[before:] for code in codes]


class Writes:
    """Counts transactions that wrote, and entries of the log."""

    def __init__(self, world: World) -> None:
        self._world, self._wrote, self._before = world, 0, 0
        event.listen(world.engine, "commit", self._on_commit)

    def _on_commit(self, connection: Any) -> None:
        changes = connection.connection.dbapi_connection.total_changes
        self._wrote += changes != self._before
        self._before = changes

    def during(self, work: Callable[[], Any]) -> tuple[int, int]:
        """How often some work wrote to the database, and to the log."""
        wrote, size = self._wrote, self._world.log.size()
        work()
        return self._wrote - wrote, self._world.log.size() - size


class Unreachable(grpc.RpcError):
    """What a channel without a gateway raises."""


class Stub:
    """Stands for both generated stubs of one partner: calls the servicers in this process, through the wire form."""

    def __init__(self, world: World, party: PartyId) -> None:
        self._party, self.down, self.calls = party, False, list[tuple[str, Any]]()
        self.lose_answer_of = ""
        self._servicers = {
            name: servicer
            for servicer in (ConsentServicer(world.consents, world.clock), OfferServicer(world.desk, world.log))
            for name in dir(servicer)
            if name[0].isupper()
        }

    def __getattr__(self, name: str) -> Any:
        def call(request: Any, timeout: float | None = None) -> Any:
            assert timeout, "every call has a deadline"
            if self.down:
                raise Unreachable
            request = type(request).FromString(request.SerializeToString())
            self.calls.append((name, request))

            async def serve() -> Any:
                set_caller(caller(self._party))
                return await getattr(self._servicers[name], name)(request, None)

            try:
                answer = asyncio.run(serve())
            except EntenteError as exc:
                raise Unreachable(str(exc.reason)) from exc
            if name == self.lose_answer_of:
                self.lose_answer_of = ""
                raise Unreachable
            return type(answer).FromString(answer.SerializeToString())

        return call


@dataclass
class Partner:
    """One partner's side: files in a folder, own state."""

    folder: Path
    party: PartyId
    clock: FixedClock
    policy: Any

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reopen()

    def reopen(self) -> None:
        """As a new process would."""
        self.engine = open_database(self.folder / "partner.db")
        self.handles = HandleBook(self.engine)
        files = {name: self.folder / f"{name}.csv" for name in ("customers", "consents", "holdings")}
        self.book = ConsentBook(files["consents"], self.engine, self.clock)
        self.data = PartnerData(DataConfig(**files), self.party, self.policy, self.book, self.clock)

    def write(self, people: Sequence[int], holdings: Sequence[str] = (), agreed: datetime = NOW) -> None:
        rows = [f"C{n},p{n}@example.org,+1202555010{n % 10},{20 + n},clerk,PT" for n in people]
        self.lines("customers", "customer_id,email,phone,age,job,region", *rows)
        start, end = to_text(agreed - timedelta(days=10)), to_text(agreed + timedelta(days=100))
        consents = [f"r{n},C{n},offer_sharing,given,bank insurer airline,{start},{end},1,1,GDPR" for n in people]
        self.lines(
            "consents",
            "record_id,customer_id,purpose,status,recipients,given_at,expires_at,separate_consent,"
            "cross_border_consent,jurisdiction",
            *consents,
        )
        self.lines("holdings", "customer_id,product,yearly_value_eur", *holdings)

    def lines(self, name: str, *lines: str) -> None:
        (self.folder / f"{name}.csv").write_text("".join(line + "\n" for line in lines))


def customer(person: int) -> CustomerId:
    return CustomerId(f"C{person}")
