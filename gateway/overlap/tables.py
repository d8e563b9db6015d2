"""Draws a table's noise, once, and keeps it: what declared cubes and ad hoc questions have in common.

Sensitivity. Neighbours differ by one person with everything that all partners hold about it. That person has at most
``tokens`` = t tokens, and each token is in one cell, so adding or removing the person changes the vector of counts by t
ones; of a sum, by t numbers of 0 to the declared cap c, because a band counts as its declared number and policy checks
that no number is above c. In distinct cells that is c sqrt(t) in L2; all in one cell it is c t. We calibrate to c t
(c = 1 for people), the worst; where people are joined over several key types ``federation.overlap.matching`` gives the
factor instead of t. (Against one partner's row alone a token moves from one cell to another: sqrt(2) per token, the
weaker promise.) People who share an identifier, such as a family's address, are one here and are protected together.

Whose data. With one key type a table is made of the rows of the partners it names. With several it is made of every
partner's: a third one's row can join two people to one, or a bank's row to an insurer's. So the policy is asked about
every partner of the epoch then, a partner that the question does not name about no column, and one denial is a refusal.

Several tables about the same people compose in the ledger. For k tables of the same sigma that is k times the loss of
one, exactly that of releasing them together at an L2 sensitivity of sqrt(k): nothing is saved by doing so.

Noise is the discrete Gaussian; it satisfies the RDP bound of the continuous one with the same sigma, by which the
ledger counts. Source: Canonne, Kamath, Steinke 2020, Theorem 4; calibration by ``federation.privacy.noise``.

Refusals. Before noise is drawn, partners confirm that no withdrawal is outstanding (``withdrawals``), and whether they
can depends on the people in their data. So it comes last: policy and budget are looked at before, and whoever has no
right or no budget for the table is refused for that, whatever changed. Who could not confirm is told to nobody but this
process's log. What is left: whoever could have had the answer learns from WITHDRAWALS_UNCONFIRMED, or from how long it
takes, that something may be under way at some partner. Each such refusal is in the audit log, with the question.

Once. The noise is drawn after budget and audit intent are durable, and the answer is stored before anybody gets it.
Whoever asks again gets the stored answer: no second draw exists that could be averaged with the first. After a crash
between spend and store the next request draws again under the same ledger key and pays once; that is no second look,
because nobody saw the first draw. Two processes that draw at once both try to store; the first is the answer of both.
When it is stored, and before anybody gets it or a table that agrees with it, the ledger marks its key as released. So
answers that are lost, or put back from a backup, while the ledger is kept are refused (ANSWER_LOST) and not drawn a
second time for nothing.
"""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog
from dp_accounting import DpEvent

from federation.core.clock import Clock, to_text
from federation.core.errors import BudgetError, OverlapError, PolicyError, Reason
from federation.core.ids import EpochId
from federation.overlap.plan import key_types_of
from federation.overlap.questions import Cell, Question, Sum, domain, misfits, owner, parts
from federation.policy.facts import Decision, Facts
from federation.privacy import noise as opendp_noise
from gateway.identity.caller import Caller
from gateway.overlap.answers import Answer, AnswerStore, Stored
from gateway.overlap.consistency import fit, margins_of
from gateway.overlap.epochs import Epochs
from gateway.overlap.wanted import Index, Made, Noise, Wanted
from gateway.release import MAX_ITEM, Cost, Exit, Released, ReleasePath

MECHANISM = "discrete_gaussian"
MAX_CELLS = 100_000
MAX_ANSWER_BYTES = 14 << 20
"""Of a table's cells on the wire: with its totals it fits into one message. A larger one could be paid for, and got by
nobody."""
_NUMBER_BYTES, _TEXT_BYTES = 110, 4
"""At most, of a cell: what says how many, or why not; around each of its names."""
NO_EPOCH = "none is built yet; the operator runs: entente overlap build"
T = TypeVar("T")
_log = structlog.get_logger()


class _UnmarkedError(Exception):
    """A table is to agree with one that the ledger may not have marked."""


class Tables:
    """Every released table, and the only place that draws noise for one.

    Args:
        epochs: Which epochs are complete.
        index: Their exact counts.
        store: Keeps answers.
        path: The release path.
        clock: Tells the time.
        confirm: Called with an epoch and partners once policy and budget are known to suffice, and before noise is
            drawn; returns when no withdrawal is outstanding. What it raises depends on what partners did.
        noise: Only a unit test passes another one.
    """

    def __init__(
        self,
        *,
        epochs: Epochs,
        index: Index,
        store: AnswerStore,
        path: ReleasePath,
        clock: Clock,
        confirm: Callable[[EpochId, Sequence[str]], None],
        noise: Noise = opendp_noise,
    ) -> None:
        self._confirm = confirm
        self.epochs, self.store, self.noise = epochs, store, noise
        self._index, self._path, self._clock = index, path, clock
        self._lock = threading.Lock()

    def complete(self, epoch: str) -> tuple[EpochId, str]:
        """Name and key type of a complete epoch, "" for the newest. Raises OverlapError."""
        name = epoch or self.epochs.newest_complete()
        found = self.epochs.get(name) if name else None
        if found is None:
            newest = self.epochs.newest_complete()
            known = f"the newest is {newest}" if newest else NO_EPOCH
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=f"{epoch[:64]}; {known}" if epoch else known)
        if found.state == "abandoned":
            raise OverlapError(Reason.EPOCH_ABANDONED, item=found.epoch)
        if found.state != "complete":
            raise OverlapError(Reason.EPOCH_INCOMPLETE, item=found.epoch)
        return found.epoch, found.plan.key_type

    def current(self, epoch: EpochId) -> None:
        """Raises OverlapError (EPOCH_REPLACED) for an epoch of which nothing new is drawn, as ``confirm`` does."""
        if epoch != self.epochs.newest_complete():
            raise OverlapError(Reason.EPOCH_REPLACED, item=f"epoch {epoch}")

    def cells(self, question: Question, epoch: EpochId, name: str) -> tuple[Cell, ...]:
        """Every cell of a question. Raises OverlapError (QUESTION_MISFIT) where the epoch has no such table."""
        columns = self._index.labels(epoch)
        if wrong := misfits(question, columns):
            raise OverlapError(Reason.QUESTION_MISFIT, item=f"{name}: {'; '.join(wrong)}"[:MAX_ITEM])
        cells = tuple(itertools.islice(domain(question, columns), MAX_CELLS + 1))
        if not 0 < len(cells) <= MAX_CELLS:
            raise OverlapError(Reason.QUESTION_MISFIT, item=f"{name}: over {MAX_CELLS:,} cells")
        if sum(map(_wire_bytes, cells)) > MAX_ANSWER_BYTES:
            raise OverlapError(Reason.QUESTION_MISFIT, item=f"{name}: {len(cells):,} cells, too large for one answer")
        return cells

    def sigma(self, wanted: Wanted) -> float:
        """Standard deviation of one cell's noise."""
        return self.noise.calibrate_sigma(wanted.epsilon, wanted.delta, wanted.sensitivity)

    def event(self, wanted: Wanted) -> DpEvent:
        """What drawing it loses."""
        return self.noise.gaussian_event(self.sigma(wanted), wanted.sensitivity)

    def permit(self, caller: Caller, wanted: Wanted, known: Stored | None) -> int:
        """The policy's floor in people, for what ``release`` would give; nothing is spent, and nothing leaves.

        Raises:
            PolicyError: the policy denies it, as ``release`` would; that is in the log.
            AuditError: it could not be logged.
        """
        return _floor(self._path.check(caller, replace(self._leaving(caller, wanted, known), cost=None)))

    def refuse(self, caller: Caller, wanted: Wanted, error: PolicyError) -> None:
        """Logs that a question is beyond what the policy has a place for. Raises AuditError."""
        self._path.refuse(caller, Exit("table", _subject(wanted), ()), error)

    def release(
        self,
        caller: Caller,
        wanted: Wanted,
        respond: Callable[[Made], T],
        digest: Callable[[T], Mapping[str, object]],
        *,
        find: Callable[[], Stored | None],
    ) -> T:
        """Gives an answer away: a stored one for nothing, else a new one that is paid for and stored first.

        Args:
            caller: Who asks.
            wanted: What is released if there is nothing to answer from.
            respond: Makes the message.
            digest: What the log keeps of it.
            find: Looks for a stored table to answer from.

        Raises:
            OverlapError: QUESTION_MISFIT.
            PolicyError: the policy denies it.
            BudgetError: there is not enough left; ANSWER_LOST where it was released and is not stored any more.
            AuditError: nothing was released.
            OverlapError: WITHDRAWALS_UNCONFIRMED, EPOCH_REPLACED, where there is nothing stored to answer from.
        """
        give = partial(self._give, caller, wanted, respond, digest)
        known = find()
        if known is not None:  # it does not change any more, so whoever gets it waits for nobody
            return give(known)
        try:
            with self._lock:
                leaving = None if find() else self._checked(caller, wanted)
            if leaving is not None:
                self._confirmed(caller, wanted, leaving)
            with self._lock:
                return give(find())
        except BudgetError as exc:
            if exc.reason is not Reason.ANSWER_LOST or (known := find()) is None:
                raise
        return give(known)  # another process stored and marked it between our look and our spend

    def _checked(self, caller: Caller, wanted: Wanted) -> Exit:
        """What is to leave, if policy and budget let it. Raises as ``release``, and what it raises is in the log."""
        self.cells(wanted.question, wanted.epoch, wanted.what)
        leaving = self._leaving(caller, wanted, None)
        self._path.check(caller, leaving)
        return leaving

    def _confirmed(self, caller: Caller, wanted: Wanted, leaving: Exit) -> None:
        """Waits for the partners. Who of them could not confirm is for this process's log, not for who asks.

        Raises:
            OverlapError: WITHDRAWALS_UNCONFIRMED, EPOCH_REPLACED; both are in the audit log.
        """
        try:
            self._confirm(wanted.epoch, wanted.question.partners)
        except OverlapError as exc:
            _log.warning("not_confirmed", epoch=wanted.epoch, reason=str(exc.reason), item=exc.item, detail=exc.detail)
            error = OverlapError(exc.reason, item=f"epoch {wanted.epoch}")
            self._path.refuse(caller, leaving, error)
            raise error from exc

    def _give(
        self,
        caller: Caller,
        wanted: Wanted,
        respond: Callable[[Made], T],
        digest: Callable[[T], Mapping[str, object]],
        known: Stored | None,
    ) -> T:
        cells = () if known else self.cells(wanted.question, wanted.epoch, wanted.what)

        def do(released: Released) -> T:
            stored, drawn = known, False
            version = released.decisions[0].version
            if stored is None:
                stored, drawn = self._draw(wanted, cells, version)
            return respond(Made(stored, _floor(released.decisions), drawn))

        return self._path.release(caller, self._leaving(caller, wanted, known), do, digest)

    def _leaving(self, caller: Caller, wanted: Wanted, known: Stored | None) -> Exit:
        """What the gates are asked: whose columns leave, at what cost, and under which key of the ledger."""
        question = wanted.question
        key = _key(wanted.epoch, known or wanted)
        what = f"{wanted.what}, epoch {wanted.epoch}"
        cost = None if known else Cost(self.event(wanted), wanted.purpose, what, key)
        at = self._clock.now()
        facts = [
            Facts(
                wanted.purpose,
                "aggregate_statistics",
                party,
                caller.party,
                at,
                fields=frozenset(column for column in _columns(question) if owner(column) == party),
            )
            for party in self._origins(wanted)
        ]
        return Exit("table", _subject(wanted), facts, cost, kept=key, terms=wanted.terms)

    def _origins(self, wanted: Wanted) -> Sequence[str]:
        """Every party whose rows the table is made of: with several key types a row of any partner may join others'."""
        asked = wanted.question.partners
        if len(key_types_of(wanted.key_type)) == 1:
            return asked
        epoch = self.epochs.get(wanted.epoch)
        if epoch is None:
            raise OverlapError(Reason.UNKNOWN_EPOCH, item=wanted.epoch)
        return [*asked, *(party for party in epoch.plan.partners if party not in asked)]

    def _draw(self, wanted: Wanted, cells: tuple[Cell, ...], version: str) -> tuple[Stored, bool]:
        sigma, exact, generation = self.sigma(wanted), list[int](), -1
        while generation != (now := self._index.generation(wanted.epoch)):  # until no delta came in between
            generation, exact = now, self._exact(wanted, cells)
        noisy = tuple(self.noise.discrete_gaussian(exact, sigma))
        marked = set[str]()

        def make(before: Sequence[Stored]) -> Answer:
            # A table from before a delta speaks of other people: to agree with it would be wrong.
            same = [one for one in before if one.answer.generation == generation]
            if not marked.issuperset(_key(wanted.epoch, one) for one in same):
                raise _UnmarkedError
            names, margins = margins_of(wanted.question, cells, sigma, same)
            found = fit(noisy, margins)
            return Answer(
                question=wanted.question,
                cells=cells,
                noisy=noisy,
                estimates=found.estimates,
                key_type=wanted.key_type,
                epsilon=wanted.epsilon,
                delta=wanted.delta,
                sigma=sigma,
                sensitivity=wanted.sensitivity,
                policy_version=version,
                released_at=to_text(self._clock.now()),
                agrees_with=tuple(name for name, kept in zip(names, found.kept, strict=True) if kept),
                generation=generation,
                min_count=wanted.min_count,
            )

        while True:
            try:
                answer, drawn = self.store.put(wanted.name, wanted.epoch, wanted.shape, make)
            except _UnmarkedError:
                # Whoever sees this table will see sums of those, which may be stored and no more yet.
                for key in {_key(wanted.epoch, one) for one in self.store.released(wanted.epoch)} - marked:
                    self._path.mark(key)
                    marked.add(key)
            else:
                return Stored(wanted.name, wanted.shape, answer), drawn

    def _exact(self, wanted: Wanted, cells: Sequence[Cell]) -> list[int]:
        """The exact number of every cell: never stored, never returned by anything but ``_draw``."""
        question, measure = wanted.question, wanted.question.measure
        columns = list(dict.fromkeys([*question.by, *(column for column, _ in question.where)]))
        if measure and measure.column not in columns:
            columns.append(measure.column)
        counts = self._index.exact(wanted.epoch, question.partners, columns)
        regions = [(members, labels) for members, labels in counts if question.owners <= set(members)]
        table = Question(question.partners, tuple(columns), (), measure)
        amounts = [counts[region] * (_worth(measure, region) if measure else 1) for region in regions]
        found = parts(table, regions, question)
        exact = {cell: sum(amounts[at] for at in some) for cell, some in found.items()}
        return [exact.get(cell, 0) for cell in cells]


def _worth(measure: Sum, region: Cell) -> int:
    return dict(measure.values)[dict(region[1])[measure.column]]


def _subject(wanted: Wanted) -> dict[str, object]:
    """What the log says of a table."""
    return {"table": wanted.name, "epoch": wanted.epoch, "question": wanted.question.canonical()}


def _floor(decisions: Sequence[Decision]) -> int:
    """The fewest people that may be shown, by every decision about a table."""
    return max(decision.obligations.min_k or 0 for decision in decisions)


def _wire_bytes(cell: Cell) -> int:
    """The most that a cell of an answer takes, and rather more."""
    members, labels = cell
    return _NUMBER_BYTES + sum(len(text) + _TEXT_BYTES for text in itertools.chain(members, *labels))


def _key(epoch: str, table: Stored | Wanted) -> str:
    """Names a table's release in the ledger.

    With its delta: after a crash, and a new delta in the policy, what is drawn costs something else, so it is another
    spend.
    """
    delta = table.answer.delta if isinstance(table, Stored) else table.delta
    return f"{table.name}/{epoch}/{table.shape}/{delta!r}"


def _columns(question: Question) -> set[str]:
    return set(question.columns) | ({question.measure.column} if question.measure else set())
