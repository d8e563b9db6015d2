"""Consent over gRPC: checks sizes and fields, the store decides. The certificate says whose handles these are.

A message may hold ten thousand states, which takes a second, so each party's calls have threads of their own: a partner
that sends many holds up its own calls, and nobody else's withdrawal.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import grpc

from federation.consent.message import to_message
from federation.consent.statements import LAW, MAX_RECIPIENTS, PURPOSE, REGION
from federation.core.clock import Clock, from_text, to_text
from federation.core.errors import EntenteError, OfferError, Reason
from federation.core.identity import PARTY_PATTERN
from federation.core.ids import HANDLE_BYTES, Handle, PartyId
from federation.policy.facts import ConsentFact
from federation.v1 import consent_pb2 as pb
from federation.v1 import consent_pb2_grpc
from gateway.consent.store import ConsentRecord, ConsentStore, stated_at
from gateway.identity.caller import current_caller
from gateway.rpc.threads import PartyThreads

MAX_STATES = 10_000
_CACHED = 10_000
_STATUSES = ("given", "withdrawn", "refused")
Context = grpc.aio.ServicerContext[Any, Any]


class ConsentServicer(consent_pb2_grpc.ConsentServiceServicer):
    """Serves partners."""

    def __init__(self, store: ConsentStore, clock: Clock) -> None:
        self._store, self._clock, self._threads = store, clock, PartyThreads(1, "consents")

    async def RecordConsents(self, request: pb.RecordConsentsRequest, _context: Context) -> pb.RecordConsentsResponse:
        """All states of the message or none; the answer counts those that now stand."""
        party = current_caller().party
        if len(request.states) > MAX_STATES:
            raise OfferError(Reason.TOO_LARGE, item=f"states: {len(request.states)}, at most {MAX_STATES}")
        recorded = await self._threads.run(party, self._record, party, request)
        return pb.RecordConsentsResponse(recorded=recorded)

    async def WithdrawConsent(
        self, request: pb.WithdrawConsentRequest, _context: Context
    ) -> pb.WithdrawConsentResponse:
        """In force, and queued offers gone, before the answer."""
        party = current_caller().party
        handle, purpose = read_handle(request.handle, "handle"), _read(PURPOSE, request.purpose, "purpose")
        said_at = from_text(request.withdrawn_at, item="withdrawn_at") if request.withdrawn_at else None
        ended = await self._threads.run(party, self._store.withdraw, party, handle, purpose, said_at)
        return pb.WithdrawConsentResponse(offers_removed=ended.offers_removed, effective_at=to_text(ended.at))

    async def GetConsents(self, request: pb.GetConsentsRequest, _context: Context) -> pb.GetConsentsResponse:
        """What the gateway has of one of the caller's handles."""
        party = current_caller().party
        handle = read_handle(request.handle, "handle")
        records = await self._threads.run(party, self._store.all_of, party, handle)
        return pb.GetConsentsResponse(states=[_write_state(record) for record in records])

    def _record(self, party: PartyId, request: pb.RecordConsentsRequest) -> int:
        now, records = self._clock.now(), list[ConsentRecord]()
        for index, state in enumerate(request.states):
            try:
                records.append(_read_state(state, now))
            except EntenteError as exc:
                raise type(exc)(exc.reason, item=f"states[{index}].{exc.item}") from exc
        return self._store.record(party, records)


def _read_state(state: pb.ConsentState, now: datetime) -> ConsentRecord:
    if state.status not in _STATUSES:
        raise OfferError(Reason.BAD_FIELD, item="status")
    fact = ConsentFact(
        status=state.status,
        recipients=_read_recipients(tuple(state.recipients)),
        given_at=from_text(state.given_at, item="given_at") if state.given_at else None,
        expires_at=from_text(state.expires_at, item="expires_at") if state.expires_at else None,
        separate=state.separate_consent,
        cross_border=state.cross_border_consent,
        jurisdiction=_optional(LAW, state.jurisdiction, "jurisdiction"),
    )
    return ConsentRecord(
        handle=read_handle(state.handle, "handle"),
        purpose=_read(PURPOSE, state.purpose, "purpose"),
        fact=fact,
        region=_optional(REGION, state.region, "region"),
        stated_at=stated_at(fact, now),
    )


# Many people name the same partners.
@lru_cache(_CACHED)
def _read_recipients(names: tuple[str, ...]) -> frozenset[str]:
    if len(names) > MAX_RECIPIENTS or not all(PARTY_PATTERN.fullmatch(name) for name in names):
        raise OfferError(Reason.BAD_FIELD, item="recipients")
    return frozenset(names)


def read_handle(value: bytes, where: str) -> Handle:
    """A handle of exactly 16 bytes. Raises OfferError (BAD_FIELD)."""
    if len(value) != HANDLE_BYTES:
        raise OfferError(Reason.BAD_FIELD, item=f"{where}: {len(value)} bytes, expected {HANDLE_BYTES}")
    return Handle(value)


def _read(pattern: re.Pattern[str], value: str, where: str) -> str:
    if not pattern.fullmatch(value):
        raise OfferError(Reason.BAD_FIELD, item=where)
    return value


def _optional(pattern: re.Pattern[str], value: str, where: str) -> str | None:
    return _read(pattern, value, where) if value else None


def _write_state(record: ConsentRecord) -> pb.ConsentState:
    state = to_message(record.fact)
    state.handle, state.purpose, state.region = record.handle, record.purpose, record.region or ""
    return state
