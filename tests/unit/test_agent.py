"""The agent's process: what a full disk, a part that dies and a connection that is lost do to its parts."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client import agent as agent_module
from federation.client.agent import GATEWAY_AWAY, TROUBLE, Agent, Part, Status, read_status
from federation.client.connection import Connection, translated
from federation.core.clock import FixedClock
from federation.core.errors import DataError, Reason
from federation.core.ids import PartyId
from federation.v1 import overlap_pb2 as pb
from tests.kits.overlap_gateway import Gateway
from tests.kits.overlap_world import small_world
from tests.kits.refused import refused


class Failing:
    """A part that does something at each start; the last one waits until it is stopped."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.acts, self.starts, self.last = list(acts), 0, threading.Event()

    def serve(self, stop: threading.Event) -> None:
        self.starts += 1
        if self.acts:
            self.acts.pop(0)()
            return
        self.last.set()
        stop.wait()


def raising(exc: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise exc

    return act


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "MIN_BACKOFF_S", 0.001)


def started(parts: dict[str, Part], status: Status) -> tuple[Agent, threading.Thread]:
    agent = Agent(parts, status, lambda: None)
    thread = threading.Thread(target=agent.run)
    thread.start()
    return agent, thread


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_no_part_and_what_is_freed_brings_it_back(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "state"
    folder.write_text("")  # nothing can be written under a file
    part = Failing(raising(full_disk()), raising(DataError(Reason.BROKEN_ROW)), folder.unlink)
    agent, thread = started({"overlap": part}, Status(folder / "agent.json", clock))
    assert part.last.wait(20)
    agent.stop()
    thread.join(20)
    assert part.starts == 4
    assert json.loads((folder / "agent.json").read_text())["parts"]["overlap"]["state"] == "stopped"


def test_a_log_that_cannot_be_written_ends_no_part(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Log:
        def warning(self, *_words: object, **_about: object) -> None:
            raise full_disk()

        error = warning

    monkeypatch.setattr(agent_module, "_log", Log())
    part = Failing(raising(ZeroDivisionError()), raising(DataError(Reason.BROKEN_ROW)))
    agent, thread = started({"overlap": part}, Status(tmp_path / "agent.json", clock))
    assert part.last.wait(20)
    agent.stop()
    thread.join(20)


def test_a_part_that_is_beyond_trying_again_ends_the_agent_with_an_error(tmp_path: Path, clock: FixedClock) -> None:
    parts: dict[str, Part] = {"overlap": Failing(raising(SystemExit(1))), "offers": Failing()}
    status = Status(tmp_path / "agent.json", clock)
    assert "overlap" in refused(Reason.INTERNAL, Agent(parts, status, lambda: None).run)
    assert json.loads((tmp_path / "agent.json").read_text())["parts"]["offers"]["state"] == "stopped"


class Lost(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A call to a gateway that is away."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def _nothing(self, *_args: Any) -> Any:
        return None

    details = trailing_metadata = initial_metadata = _nothing
    is_active = time_remaining = cancel = add_callback = _nothing


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Lost(), GATEWAY_AWAY),
        (full_disk(), "This partner's own files: No space left on device."),
        (ValueError("ann@example.com"), "ValueError"),
    ],
)
def test_the_status_says_why_in_words(tmp_path: Path, clock: FixedClock, failure: Exception, words: str) -> None:
    path, seen = tmp_path / "agent.json", list[str]()

    def look() -> None:
        seen.append(json.loads(path.read_text())["parts"]["overlap"]["text"])

    status = Status(path, clock)
    keep = status.set
    status.set = lambda part, state, text="": (keep(part, state, text), text and look())  # type: ignore[method-assign,assignment,return-value]
    part = Failing(raising(failure))
    agent, thread = started({"overlap": part}, status)
    assert part.last.wait(20)
    agent.stop()
    thread.join(20)
    assert seen == [words]


def test_the_gateway_sees_an_agent_go_whose_part_fails(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    world.coordinator.begin("", "email")
    with Gateway(world) as gateway, gateway.connect("bank") as connection:
        agent: Any = world.open_agent("bank", stub=connection.overlap)
        agent.work = lambda _task: raising(full_disk())()
        with pytest.raises(OSError, match="No space") as failure:  # the error holds on to the stream
            agent.serve(threading.Event())
        deadline = time.monotonic() + 20
        while gateway.servicer.connected():
            assert time.monotonic() < deadline, "still attached"
            time.sleep(0.01)
        assert failure.value.errno == errno.ENOSPC


def test_what_cannot_be_recorded_does_not_leave_and_is_not_called_the_gateways_fault(
    tmp_path: Path, clock: FixedClock
) -> None:
    world = small_world(tmp_path, clock)

    def record(_method: str, _message: bytes) -> None:
        raise full_disk()

    def call(stub: Any) -> None:
        with translated():
            stub.ReportOverlapTask(pb.ReportOverlapTaskRequest())

    bank = world.identities["bank"]
    with Gateway(world) as gateway, Connection(gateway.address, bank, record=record) as connection:
        item = refused(Reason.STATE_UNWRITABLE, call, connection.overlap)
    assert item == "the record of what leaves"


def test_the_last_refusal_stays_in_the_status_with_its_time(tmp_path: Path, clock: FixedClock) -> None:
    world = small_world(tmp_path, clock)
    world.coordinator.begin("", "email")
    path = tmp_path / "agent.json"
    status = Status(path, clock)
    status.set("overlap", "serving")
    agent = world.open_agent("bank", on_refused=lambda why: status.refused("overlap", why))
    [(_, task)] = world.coordinator.tasks(PartyId("bank"))

    def broken(*_names: Any) -> None:
        raise DataError(Reason.BROKEN_ROW, item="customers.csv, row 7", fix="Mend it.")

    world.data["bank"].columns = broken
    assert agent.work(task).reason == "BROKEN_ROW"
    status.set("overlap", "waiting", GATEWAY_AWAY)  # which says nothing of the partner's files
    status.set("overlap", "serving")
    overlap = read_status(path, running=True)["parts"]["overlap"]
    assert overlap["state"] == "serving"
    assert overlap[TROUBLE]["text"] == "A row cannot be read. Item: customers.csv, row 7. Mend it."
    assert overlap[TROUBLE]["at"] == overlap["since"]
    world.data["bank"].columns = lambda *_names: 1 / 0
    agent.work(task)
    assert "ZeroDivisionError" in read_status(path, running=True)["parts"]["overlap"][TROUBLE]["text"]


def test_what_an_agent_wrote_that_was_killed_is_not_shown_as_serving(tmp_path: Path, clock: FixedClock) -> None:
    path = tmp_path / "agent.json"
    assert read_status(path, running=False) == {"parts": {}, "running": False}
    Status(path, clock).set("overlap", "serving", "halfway")
    assert read_status(path, running=True)["parts"]["overlap"]["state"] == "serving"
    told = read_status(path, running=False)
    assert (told["running"], told["parts"]["overlap"]["state"]) == (False, "not running")
