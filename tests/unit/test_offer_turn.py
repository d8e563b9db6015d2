"""Taking turns among threads and processes."""

import os
import signal
import threading
from pathlib import Path

import pytest

from federation.core.errors import OfferError, Reason
from federation.core.ids import PartyId
from gateway.offers.turn import FileTurn, Turns


def test_one_at_a_time_and_a_failure_gives_the_turn_back(tmp_path: Path) -> None:
    mine, other = (FileTurn(tmp_path / "lock", wait_s=0.05) for _ in range(2))
    with mine:
        for blocked in (other, mine):
            with pytest.raises(OfferError) as caught, blocked:
                pytest.fail("two have the turn")
            assert caught.value.reason is Reason.UNAVAILABLE
    with pytest.raises(ZeroDivisionError), other:
        raise ZeroDivisionError
    with mine:
        pass


def test_each_recipient_has_one_turn_of_its_own() -> None:
    turns = Turns(lambda _: threading.Lock())
    assert turns.of(PartyId("bank")) is turns.of(PartyId("bank")) is not turns.of(PartyId("insurer"))


def test_threads_count_without_losing_any(tmp_path: Path) -> None:
    turns, count = [FileTurn(tmp_path / "lock") for _ in range(3)], [0]

    def work(turn: FileTurn) -> None:
        for _ in range(30):
            with turn:
                seen = count[0]
                threading.Event().wait(0.0001)
                count[0] = seen + 1

    threads = [threading.Thread(target=work, args=(turns[n % 3],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == [120]


def test_who_is_killed_loses_the_turn(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with FileTurn(tmp_path / "lock"):
            os.write(writing, b"x")
            signal.pause()
        os._exit(1)
    assert os.read(reading, 1) == b"x"
    with pytest.raises(OfferError), FileTurn(tmp_path / "lock", wait_s=0.02):
        pytest.fail("the child has the turn")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with FileTurn(tmp_path / "lock", wait_s=1):
        pass
    os.close(reading)
    os.close(writing)
