"""The part of the agent that sends withdrawals by itself."""

import threading
from collections.abc import Sequence

import pytest

from federation.client.overlap.withdrawals import WithdrawalWatch
from federation.core.errors import OverlapError, Reason


class Sender:
    """Answers in turn, and ends the watch after the last answer."""

    def __init__(self, answers: Sequence[int | None]) -> None:
        self.answers, self.calls, self.stop = list(answers), 0, threading.Event()

    def withdraw(self) -> int | None:
        self.calls += 1
        return self.answers[self.calls - 1]


def watch(sender: Sender, revisions: Sequence[object]) -> int:
    """Looks once for each revision; returns how often something was sent."""
    left = list(revisions)

    def revision() -> object:
        now = left.pop(0)
        if not left:
            sender.stop.set()
        return now

    WithdrawalWatch(sender, revision, look_every_s=0).serve(sender.stop)
    return sender.calls


def test_it_looks_at_the_start_and_after_every_change_and_at_nothing_else() -> None:
    assert watch(Sender([0, 1, 2]), ["a", "a", "a", "b", "b", "c"]) == 3


def test_before_there_is_an_epoch_it_looks_again() -> None:
    assert watch(Sender([None, None, 0]), ["a", "a", "a", "a"]) == 3


def test_what_was_refused_is_tried_at_the_next_start() -> None:
    sender = Sender([0, 1])
    failing = Sender([])

    def refuse() -> int:
        raise OverlapError(Reason.OUT_OF_SEQUENCE, item="delta 2")

    failing.withdraw = refuse  # type: ignore[method-assign]
    with pytest.raises(OverlapError):
        watch(failing, ["a", "a"])
    assert watch(sender, ["a", "a"]) == 1
