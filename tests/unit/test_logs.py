"""What a crash leaves in the log of a process: where it was, and no count and nobody's address."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import Column, MetaData, String, Table, insert
from sqlalchemy.exc import IntegrityError

from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.ids import PartyId
from federation.core.logs import configure_logs
from federation.policy.specs import CubeSpec
from federation.privacy import noise as opendp_noise
from gateway.rpc.interceptor import abort
from tests.kits.command import entente
from tests.kits.overlap_world import small_world
from tests.kits.questions import Asking, person

BANK = PartyId("bank")
SECRET = 3175


class Crashing:
    """Noise whose source fails when it has the exact counts in its hands."""

    def discrete_gaussian(self, values: Sequence[int], sigma: float) -> list[int]:
        drawn = [value + 1 for value in values]
        raise RuntimeError(f"no entropy for {len(drawn)} cells")

    calibrate_sigma = staticmethod(opendp_noise.calibrate_sigma)
    gaussian_event = staticmethod(opendp_noise.gaussian_event)


class Call:
    """Stands for the call that failed."""

    async def abort(self, *_status: Any) -> None:
        raise ConnectionAbortedError


@pytest.fixture
def as_started() -> Iterator[None]:
    """The log as a process has it that was started by the ``entente`` command."""
    before = structlog.get_config()
    structlog.reset_defaults()
    assert entente("budget", "--help").returncode == 0
    yield
    structlog.configure(**before)


def crashed(method: str, act: Any) -> None:
    """Fails as a call does at the gateway."""
    with pytest.raises(RuntimeError) as caught:
        act()
    call: Any = Call()
    with pytest.raises(ConnectionAbortedError):
        asyncio.run(abort(call, caught.value, method))


@pytest.mark.usefixtures("as_started")
def test_a_crash_between_counts_and_noise_prints_neither(capsys: pytest.CaptureFixture[str]) -> None:
    cube = CubeSpec(name="venn", partners=("bank", "insurer"), epsilon=1.0, min_count=0)
    asking = Asking([person(bank="basic")] * SECRET, cube, noise=Crashing())
    crashed("/federation.v1.OverlapService/QueryCube", lambda: asking.cube("venn"))
    said = "".join(capsys.readouterr())
    assert "incident" in said
    assert "in _draw" in said  # where it was, for whoever mends it
    assert "no entropy for 3 cells" in said
    assert str(SECRET) not in said
    assert str(SECRET + 1) not in said


@pytest.mark.usefixtures("as_started")
def test_a_crash_at_an_agent_prints_no_address(
    tmp_path: Path, clock: FixedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    world = small_world(tmp_path, clock)
    world.coordinator.begin("", "email")
    columns = world.data["bank"].columns

    def crash(*names: Any) -> None:
        table = columns(*names)
        raise RuntimeError(f"{table.num_rows} rows")

    world.data["bank"].columns = crash
    [(_, task)] = world.coordinator.tasks(BANK)
    assert world.agents["bank"].work(task).reason == "INTERNAL"
    said = "".join(capsys.readouterr())
    assert "overlap_task_failed" in said
    assert "in crash" in said
    assert "example.com" not in said


def test_an_error_of_the_database_does_not_quote_values(tmp_path: Path) -> None:
    people = Table("people", MetaData(), Column("email", String, primary_key=True))
    for engine in (open_database(None), open_database(tmp_path / "people.db")):
        people.create(engine)
        address = "ann@example.com"
        with engine.begin() as db:
            db.execute(insert(people).values(email=address))
        with pytest.raises(IntegrityError) as caught, engine.begin() as db:
            db.execute(insert(people).values(email=address))
        assert "INSERT INTO people" in str(caught.value)
        assert address not in str(caught.value)
        engine.dispose()


@pytest.mark.usefixtures("as_started")
def test_a_terminal_that_shows_the_log_obeys_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Words with a space were quoted by structlog, others not."""
    configure_logs()
    structlog.get_logger().info("refused", item="\x1b[2J\x9b31m\u202erun-1", party="bank", rows=3)
    said = capsys.readouterr().out
    assert r"item=\u001b[2J\u009b31m\u202erun-1 party=bank rows=3" in said
    assert said.replace("\n", "").isprintable()
