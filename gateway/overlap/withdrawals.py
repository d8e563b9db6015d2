"""Nothing withdrawn is in a fresh answer: before noise is drawn, every partner of the table says that nothing is due.

An agent that is asked looks at its consents as they are then, sends its removals first if there are any, and answers
with the number of its last delta; the answer counts when the index has it. So a withdrawal that a partner recorded
before the question was put to it is in no number that is drawn afterwards. Whoever is not connected, does not answer in
time or cannot read its own consents stops the fresh answer: stored answers need nobody and are given all the same.

What was released stays released. A withdrawal changes no answer that is stored: it was drawn while the person was in
the index by consent, and tells of that person no more than its epsilon allows. It is for later numbers to leave the
person out.

Differencing. Within an epoch a table is drawn once, and whoever asks again gets the stored answer, delta or not; and so
for every sub-question that it answers. So nobody can ask one question before and after a delta and subtract for free: a
second number about changed people is another table, with noise of its own and its loss in the ledger. Neighbours differ
in one person with all that it was at any moment of the epoch: there, gone, relabelled. In each table the person has the
cells of the moment at which it was drawn, at most the declared sensitivity away from not being there at all; that bound
holds for whatever index the mechanism is given, so the tables compose adaptively in the ledger as they do without
deltas. Whoever pays for two different tables on both sides of somebody's withdrawal learns from the numbers of that
person what the sum of both prices allows, and no more.

What no noise hides. That some delta came in between two tables: the later one does not name the earlier one among those
it agrees with, and as their shared sums differ, it would hide nothing to say nothing. And that one may be under way: a
removal that a hop does not blind stops fresh answers, and one that it blinds makes them slower. Neither says whose row
it is, nor at which partner; ``tables`` asks for confirmations only where the answer would be given otherwise.

``max_tokens_per_person`` bounds what one table sees: what is there at
one moment.
Source: Dwork, Rothblum, Vadhan 2010, section III; Rogers et al. 2016 (parameters chosen adaptively).
"""

import time
from collections.abc import Collection

import structlog

from federation.core.errors import OverlapError, Reason
from federation.core.ids import EpochId
from federation.overlap.plan import key_types_of
from gateway.overlap.deltas import Ask, Deltas

CONNECT_S = 6.0
"""Agents that lost a gateway come back within five seconds."""
ANSWER_S = 25.0
"""Under the patience of whoever asks the question."""
_log = structlog.get_logger()


class Withdrawals:
    """Asks partners, and waits.

    Args:
        deltas: What changes in the epoch.
        connect_s: How long an agent may take to connect.
        answer_s: How long all may take, until their removals are in the index.
    """

    def __init__(self, deltas: Deltas, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
        self._deltas, self._connect_s, self._answer_s = deltas, connect_s, answer_s

    def __call__(self, epoch: EpochId, partners: Collection[str]) -> None:
        """Returns when no withdrawal of these partners is outstanding in an epoch.

        Where several key types join rows to people, a row of any partner may join two others': all are asked.

        Raises:
            OverlapError: EPOCH_REPLACED for an epoch that takes no deltas any more; WITHDRAWALS_UNCONFIRMED.
        """
        newest = self._deltas.newest()
        if newest is None or newest.epoch != epoch:
            raise OverlapError(Reason.EPOCH_REPLACED, item=epoch)
        several = len(key_types_of(newest.plan.key_type)) > 1
        asked = [party for party in newest.plan.partners if several or party in partners]
        asks = self._deltas.ask(newest.plan, asked, withdrawals_only=True)
        started = time.monotonic()
        try:
            for ask in asks:
                self._wait(ask, started)
        finally:
            self._deltas.drop(asks)

    def _wait(self, ask: Ask, started: float) -> None:
        while True:
            try:
                if self._deltas.is_done(ask):
                    return
            except OverlapError as exc:
                _log.warning("withdrawals_unconfirmed", party=ask.party, item=exc.item)
                raise OverlapError(Reason.WITHDRAWALS_UNCONFIRMED, item=exc.item, fix=exc.fix) from exc
            away = ask.sequence is None and ask.party not in self._deltas.connected()
            if not self._deltas.wait(started + (self._connect_s if away else self._answer_s)):
                item = f"partner {ask.party}: {'not connected' if away else 'no answer in time'}"
                raise OverlapError(Reason.WITHDRAWALS_UNCONFIRMED, item=item)
