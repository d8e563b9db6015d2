"""Keeps the gateway's consent states in step with the partner's consent book.

Only states of people who have a handle go up, by handle, and only for purposes that an offer needs: what a person said
of statistics or training is carried out here, and beside a token that goes soon after would say whose it was. They go
before their people come onto the switchboard, and in the background where they are others since the partner's files
changed: whoever is on it may live elsewhere by now, or have agreed to other things.

A withdrawal is in force at this partner before anything is sent; the message to the gateway waits in a durable outbox,
written in the same transaction, until it is acknowledged. What the gateway has not acknowledged, it does not know: the
outcome says so.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import grpc
import structlog
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, func, select

from federation.client.consent.imported import ImportedConsents, mark_uploaded
from federation.client.consent.sent import SentStates
from federation.client.data import PartnerData
from federation.client.handles import HandleBook
from federation.consent.message import to_message
from federation.consent.statements import REGION
from federation.core.clock import to_text
from federation.core.ids import CustomerId, Handle
from federation.offers.offer import PURPOSE
from federation.policy.facts import ConsentFact
from federation.policy.vocabulary import OBJECTION_PURPOSE, SENSITIVE_SUFFIX
from federation.v1 import consent_pb2 as pb
from federation.v1 import consent_pb2_grpc

STATES_PER_CALL = 5_000
CALL_TIMEOUT_S = 60.0
FLUSH_EVERY_S = 5.0
_CACHED = 10_000
OFFER_PURPOSES = (PURPOSE, PURPOSE + SENSITIVE_SUFFIX, OBJECTION_PURPOSE)
"""What the gateway must know of a person before it decides about an offer."""
_log = structlog.get_logger()

metadata = MetaData()
outbox = Table(
    "withdrawal_outbox",
    metadata,
    Column("entry", Integer, primary_key=True, autoincrement=True),
    Column("customer_id", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("withdrawn_at", String, nullable=False),
    Column("sent_at", String),  # when the gateway acknowledged, or there was nothing to tell it
)
files_sent = Table("consent_files_sent", metadata, Column("stamps", String, primary_key=True))
"""The partner's files of which the gateway has all states; one row at most."""


@dataclass(frozen=True)
class Withdrawal:
    """What became of a withdrawal."""

    at: datetime
    """In force at this partner from then."""
    acknowledged: bool
    """The gateway knows it, or need not. False: it waits in the outbox and is retried."""
    offers_removed: int
    """Queued offers that the gateway removed."""

    @property
    def text(self) -> str:
        """One plain sentence for a person."""
        if not self.acknowledged:
            return "Withdrawn here; the gateway has NOT acknowledged it yet. The agent keeps trying."
        return f"Withdrawn here, and at the gateway where it must know; queued offers removed: {self.offers_removed}."


class ConsentLink:
    """Sends consent states and withdrawals. A part of the agent (``serve``), and what the command line uses.

    Args:
        stub: The gateway's consent service.
        data: The partner's data with its consent book.
        handles: The partner's handles.
        engine: The partner's durable state; the same as the book's.
    """

    def __init__(
        self, stub: consent_pb2_grpc.ConsentServiceStub, data: PartnerData, handles: HandleBook, engine: Engine
    ) -> None:
        self._stub, self._data, self._handles, self._engine = stub, data, handles, engine
        self._book, self._clock = data.consents, data.clock
        self._imports, self._sent = ImportedConsents(engine), SentStates(engine)
        metadata.create_all(engine)

    def upload(self, people: Sequence[tuple[CustomerId, Handle]], purposes: Iterable[str] = OFFER_PURPOSES) -> int:
        """Sends the *current* states of people on the switchboard; safe to repeat. Returns how many states went up.

        Raises:
            DataError: the partner's files are not usable.
            grpc.RpcError: the gateway refused or cannot be reached; repeat the call.
        """
        sent, purposes = 0, tuple(purposes)
        for start in range(0, len(people), STATES_PER_CALL):
            sent += self._send_states(people[start : start + STATES_PER_CALL], purposes)
        return sent

    def upload_imported(self, purposes: Iterable[str] = OFFER_PURPOSES) -> int:
        """After an import: sends what is new of everybody who has a handle. Returns how many states went up.

        Raises:
            DataError: the partner's files are not usable.
            grpc.RpcError: the gateway refused or cannot be reached; the agent tries again.
        """
        waiting = self._imports.not_uploaded()
        sent = self._send_all(tuple(purposes)) if waiting else 0
        mark_uploaded(self._engine, waiting)
        return sent

    def upload_changed_files(self) -> int:
        """Where the files of customers or consents changed: the same. Raises as ``upload_imported``."""
        now = repr(self._data.stamps())  # before anything is read
        with self._engine.begin() as connection:
            if connection.scalar(select(files_sent.c.stamps)) == now:
                return 0
        sent = self._send_all(OFFER_PURPOSES)
        with self._engine.begin() as connection:
            connection.execute(files_sent.delete())
            connection.execute(files_sent.insert().values(stamps=now))
        return sent

    def _send_all(self, purposes: tuple[str, ...]) -> int:
        return sum(self._send_states(pairs, purposes, new=True) for pairs in self._handles.pages(STATES_PER_CALL))

    def _send_states(
        self, pairs: Sequence[tuple[CustomerId, Handle]], purposes: tuple[str, ...], *, new: bool = False
    ) -> int:
        sent, customers = 0, [customer for customer, _ in pairs]
        regions = self._data.regions(customers)
        for purpose in purposes:
            # Read when sent: a withdrawal since the list was made must go up as a withdrawal.
            facts = self._book.states_of(customers, purpose)
            # A consent of somebody who is not in the customers' file goes nowhere: the file may be copied half.
            told = {c: fact for c, fact in facts.items() if c in regions or fact.status != "given"}
            states = [self._state(handle, purpose, told[c], regions.get(c)) for c, handle in pairs if c in told]
            states = self._sent.others(states) if new else states
            if states:
                self._stub.RecordConsents(pb.RecordConsentsRequest(states=states), timeout=CALL_TIMEOUT_S)
                self._sent.note(states)
                sent += len(states)
        return sent

    def record(self, customer_id: CustomerId, purpose: str, fact: ConsentFact) -> bool:
        """Records a statement locally, and at the gateway where the person has a handle.

        Returns:
            Whether the gateway has it. Where not, the next index build sends it if an offer needs it; until then the
            gateway denies or goes by the older state.
        """
        self._book.record(customer_id, purpose, fact)
        handle = self._handles.existing(customer_id) if purpose in OFFER_PURPOSES else None
        if handle is None:
            return False
        try:
            self.upload([(customer_id, handle)], (purpose,))
        except grpc.RpcError as exc:
            _log.warning("consent_not_sent", status=_status(exc))
            return False
        return True

    def withdraw(self, customer_id: CustomerId, purpose: str) -> Withdrawal:
        """Withdraws here first, durably, then tells the gateway. Raises DataError for an unusable consent file."""
        entries: list[int] = []

        def enqueue(connection: Connection, at: datetime) -> None:
            row = {"customer_id": customer_id, "purpose": purpose, "withdrawn_at": to_text(at)}
            key = connection.execute(outbox.insert().values(**row)).inserted_primary_key
            entries.append(int(key[0]) if key is not None else 0)

        at = self._book.withdraw(customer_id, purpose, enqueue)
        try:
            removed = self._send(entries[0], customer_id, purpose, to_text(at))
        except grpc.RpcError as exc:
            _log.warning("withdrawal_waits", status=_status(exc))
            return Withdrawal(at, acknowledged=False, offers_removed=0)
        return Withdrawal(at, acknowledged=True, offers_removed=removed)

    def pending(self) -> int:
        """Withdrawals that the gateway has not acknowledged."""
        with self._engine.begin() as connection:
            return int(connection.scalar(select(func.count()).where(outbox.c.sent_at.is_(None))) or 0)

    def flush(self) -> int:
        """Sends what waits in the outbox; returns how many were acknowledged. Raises grpc.RpcError; the rest waits."""
        with self._engine.begin() as connection:
            waiting = connection.execute(select(outbox).where(outbox.c.sent_at.is_(None)).order_by("entry")).all()
        for row in waiting:
            self._send(row.entry, CustomerId(row.customer_id), row.purpose, row.withdrawn_at)
        return len(waiting)

    def serve(self, stop: threading.Event) -> None:
        """Sends what waits until told to stop; also what another process put into outbox, register or files."""
        while not stop.is_set():
            self.flush()
            self.upload_imported()
            self.upload_changed_files()
            stop.wait(FLUSH_EVERY_S)

    def _send(self, entry: int, customer_id: CustomerId, purpose: str, withdrawn_at: str) -> int:
        """Tells the gateway of one withdrawal and marks it as sent; returns how many offers it removed."""
        handle, removed = self._handles.existing(customer_id), 0
        if handle is not None and purpose in OFFER_PURPOSES:
            request = pb.WithdrawConsentRequest(handle=handle, purpose=purpose, withdrawn_at=withdrawn_at)
            removed = self._stub.WithdrawConsent(request, timeout=CALL_TIMEOUT_S).offers_removed
        # Without a handle the gateway never heard of the person. A handle made later comes with an upload, which reads
        # the book and so says "withdrawn".
        with self._engine.begin() as connection:
            done = outbox.update().where(outbox.c.entry == entry).values(sent_at=to_text(self._clock.now()))
            connection.execute(done)
        return removed

    @staticmethod
    def _state(handle: Handle, purpose: str, fact: ConsentFact, region: str | None) -> pb.ConsentState:
        # What is no country is unknown: the gateway refuses a message as a whole, and others wait for it.
        known = region if region and REGION.fullmatch(region) else ""
        state = pb.ConsentState(handle=handle, purpose=purpose, region=known)
        state.MergeFrom(_said(fact))
        return state


@lru_cache(_CACHED)  # many say the same at the same time
def _said(fact: ConsentFact) -> pb.ConsentState:
    """What somebody said; do not change it: it is shared."""
    # What the partner cannot read, nobody gave.
    return to_message(fact if fact.status else replace(fact, status="refused"))


def _status(exc: grpc.RpcError) -> str:
    return str(exc.code()) if isinstance(exc, grpc.Call) else "unknown"
