"""Where the partners' streams meet a run: who is connected, what each still owes, and what came back.

Proposals that wait for a partner's word are told to it whenever it comes. One run at a time is under way. A partner of
it that comes back within ``reconnect_timeout_s`` gets the proposal and the message it still owes again; one that does
not, refuses, or sends rubbish ends the run, with the partner named. The hub believes a partner's name from its
certificate only; a reply counts once, for the partner that was asked, and anything else that comes is dropped and
logged.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from federation.core.errors import Reason, TrainingError
from federation.training.flower import Message, unpack
from federation.v1 import training_pb2 as pb

Send = Callable[[pb.ExchangeMessagesResponse | None], None]
"""Puts a message into a partner's stream; None ends it. Never blocks."""
_log = structlog.get_logger()


@dataclass
class _Run:
    """The run under way."""

    proposal: pb.TrainingProposal
    gone_since: dict[str, float]  # partner to when it was found gone
    owed: dict[str, tuple[str, pb.FlowerMessage]] = field(default_factory=dict)  # partner to message it must answer
    replies: dict[str, Message] = field(default_factory=dict)  # by id of the message they answer
    failure: TrainingError | None = None


class Hub:
    """Safe to call from any thread.

    Args:
        reconnect_timeout_s: How long a run waits for a partner whose stream broke.
        monotonic: Measures that time.
    """

    def __init__(self, reconnect_timeout_s: float = 60.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._reconnect_timeout_s, self._monotonic = reconnect_timeout_s, monotonic
        self._changed = threading.Condition()
        self._sessions: dict[str, Send] = {}
        self._run: _Run | None = None
        self._proposed: dict[str, tuple[pb.ProposedRun, set[str]]] = {}  # by run; with who has not decided yet

    def connected(self) -> frozenset[str]:
        """Partners whose agent is there."""
        with self._changed:
            return frozenset(self._sessions)

    def attach(self, party: str, send: Send) -> None:
        """A partner's stream opened; an older one of the same partner is ended, and what it owed is sent here."""
        with self._changed:
            older = self._sessions.pop(party, None)
            self._sessions[party] = send
            for proposed, waiting in self._proposed.values():
                if party in waiting:
                    send(pb.ExchangeMessagesResponse(proposed=proposed))
            run = self._run
            if run is not None and party in run.proposal.partners:
                run.gone_since.pop(party, None)
                send(pb.ExchangeMessagesResponse(proposal=run.proposal))
                if party in run.owed:
                    send(pb.ExchangeMessagesResponse(message=run.owed[party][1]))
            self._changed.notify_all()
        if older is not None:
            older(None)
        _log.info("trainer_connected", party=party)

    def detach(self, party: str, send: Send) -> None:
        """A partner's stream ended; nothing if a newer one has taken its place."""
        with self._changed:
            if self._sessions.get(party) is not send:
                return
            del self._sessions[party]
            if self._run is not None and party in self._run.proposal.partners:
                self._run.gone_since[party] = self._monotonic()
            self._changed.notify_all()
        _log.info("trainer_gone", party=party)

    def announce(self, proposed: pb.ProposedRun, waiting: Iterable[str]) -> None:
        """Asks partners for their word on a proposal, now and whenever they come, until ``forget``."""
        with self._changed:
            parties = set(waiting)
            self._proposed[proposed.proposal.run_id] = (proposed, parties)
            for party in parties & set(self._sessions):
                self._sessions[party](pb.ExchangeMessagesResponse(proposed=proposed))

    def decided(self, run_id: str, party: str) -> None:
        """A partner need not be asked again."""
        with self._changed:
            if run_id in self._proposed:
                self._proposed[run_id][1].discard(party)

    def forget(self, run_id: str) -> None:
        """A proposal does not wait any longer."""
        with self._changed:
            self._proposed.pop(run_id, None)

    def open(self, proposal: pb.TrainingProposal) -> None:
        """Begins a run: every partner gets the proposal. Raises TrainingError (RUN_BUSY)."""
        with self._changed:
            if self._run is not None:
                raise TrainingError(Reason.RUN_BUSY, item=f"run {self._run.proposal.run_id}")
            now = self._monotonic()
            self._run = _Run(proposal, {party: now for party in proposal.partners if party not in self._sessions})
            for party in proposal.partners:
                if party in self._sessions:
                    self._sessions[party](pb.ExchangeMessagesResponse(proposal=proposal))

    def close(self) -> None:
        """No run is under way any longer, whether it is over or goes on later."""
        with self._changed:
            self._run = None

    def tell_ended(self, run_id: str, partners: Iterable[str]) -> None:
        """Tells partners that are there that a run, or a proposal, is over."""
        with self._changed:
            for party in partners:
                if party in self._sessions:
                    ended = pb.RunEnded(run_id=run_id)
                    self._sessions[party](pb.ExchangeMessagesResponse(ended=ended))

    def ask(self, party: str, message_id: str, data: bytes) -> None:
        """Sends one message of the run to a partner, who owes the answer from now on, over any number of streams."""
        with self._changed:
            run = self._need_run()
            wire = pb.FlowerMessage(run_id=run.proposal.run_id, message=data)
            run.owed[party] = (message_id, wire)
            if party in self._sessions:
                self._sessions[party](pb.ExchangeMessagesResponse(message=wire))

    def wait(self, message_ids: Mapping[str, str], timeout_s: float) -> dict[str, Message]:
        """Waits for the replies to messages; what a late partner owes is forgotten.

        Args:
            message_ids: Message id to the partner that owes the answer.
            timeout_s: For all of them.

        Returns:
            Message id to reply, of those that came in time.

        Raises:
            TrainingError: PARTNER_UNAVAILABLE, PROPOSAL_REFUSED, BAD_UPDATE or RUN_FAILED, with the partner named.
        """
        end = self._monotonic() + timeout_s
        with self._changed:
            while True:
                run = self._need_run()
                if run.failure is not None:
                    raise run.failure
                missing = [party for message_id, party in message_ids.items() if message_id not in run.replies]
                now = self._monotonic()
                if not missing or now >= end:
                    for party in missing:
                        run.owed.pop(party, None)
                        _log.warning("trainer_late", party=party)
                    return {name: run.replies.pop(name) for name in message_ids if name in run.replies}
                deadlines = {p: run.gone_since[p] + self._reconnect_timeout_s for p in missing if p in run.gone_since}
                late = sorted(party for party, deadline in deadlines.items() if deadline <= now)
                if late:
                    raise TrainingError(Reason.PARTNER_UNAVAILABLE, item=", ".join(late))
                self._changed.wait(min([end, *deadlines.values()]) - now)

    def deliver(self, party: str, wire: pb.FlowerMessage) -> None:
        """A partner's reply came. One that answers nothing it owes is dropped."""
        with self._changed:
            run = self._run
            if run is None or wire.run_id != run.proposal.run_id or party not in run.owed:
                _log.warning("stray_reply", party=party, run=wire.run_id[:64])
                return
            try:
                reply = unpack(wire.message, item=party)
                if reply.metadata.reply_to_message_id != run.owed[party][0]:
                    _log.warning("stray_reply", party=party, run=wire.run_id)
                    return
                run.replies[run.owed.pop(party)[0]] = reply
            except TrainingError as exc:
                run.failure = run.failure or exc
            self._changed.notify_all()

    def refuse(self, party: str, refusal: pb.TrainerRefusal) -> None:
        """A partner will not take part: ends the run it names, if that is the one under way."""
        with self._changed:
            run = self._run
            if run is not None and refusal.run_id == run.proposal.run_id and party in run.proposal.partners:
                text = plain(refusal.text, 300)
                item = f"{party}: {plain(refusal.reason, 48)}" + (f": {text}" if text else "")
                run.failure = run.failure or TrainingError(Reason.PROPOSAL_REFUSED, item=item)
                self._changed.notify_all()

    def abort(self, run_id: str, error: TrainingError) -> None:
        """Breaks off a run, if it is the one under way, for a reason of the gateway's own."""
        with self._changed:
            if self._run is not None and self._run.proposal.run_id == run_id:
                self._run.failure = self._run.failure or error
                self._changed.notify_all()

    def _need_run(self) -> _Run:
        if self._run is None:
            raise TrainingError(Reason.RUN_FAILED, item="no run is open")
        return self._run


def plain(text: str, limit: int) -> str:
    """A peer's words, cut and without control characters."""
    return "".join(character for character in text[:limit] if character.isprintable())
