"""Before a call: a certificate that expired is said at once, a gateway that does not answer soon."""

from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from federation.cli import console
from federation.client.connection import Connection
from federation.core.clock import FixedClock
from federation.core.errors import IdentityError, Reason, TransportError
from gateway import cli
from gateway.identity.authority import Authority
from tests.kits.identity import make_identity


class Slow:
    """A gateway that answers at the second look."""

    target = "gateway.example:7443"

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait_ready(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        if len(self.waits) == 1:
            raise TransportError(Reason.UNAVAILABLE, item=self.target)


def test_an_expired_certificate_is_said_without_asking_anybody() -> None:
    clock = FixedClock(datetime.now(UTC) - timedelta(days=400))
    identity = make_identity(Authority.create("skyline", clock.now()), clock)
    with Connection("192.0.2.1:7443", identity) as connection, pytest.raises(IdentityError) as caught:
        connection.wait_ready(600)
    assert caught.value.reason is Reason.CERTIFICATE_EXPIRED
    assert "invite" in caught.value.fix


@pytest.mark.parametrize(("words", "told"), [(["entente"], True), (["entente", "--json"], False)])
def test_whoever_waits_for_the_gateway_is_told(
    words: list[str], told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", words)
    slow = Slow()
    console.wait(slow, 10)  # type: ignore[arg-type]
    assert sum(slow.waits) == 10
    assert (slow.target in capsys.readouterr().err) is told


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_command_ends_though_its_channel_does_not_close(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, never = Event(), Event()
    monkeypatch.setattr("federation.client.connection.CLOSE_S", 0.01)
    connection = Connection("192.0.2.1:7443", None)

    def close() -> None:
        asked.set()
        never.wait()

    monkeypatch.setattr(connection, "close", close)
    with pytest.raises(kind), connection:
        raise kind
    assert asked.is_set()
    never.set()
    connection.channel.close()


@pytest.mark.parametrize(("end", "told"), [(SystemExit(console.INTERRUPTED), True), (console.Left(), False)])
def test_an_interrupted_process_ends_without_waiting_for_what_is_left(
    end: SystemExit, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    def interrupted() -> None:
        raise end

    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    monkeypatch.setattr(cli, "configure_logs", lambda: None)
    monkeypatch.setattr(cli, "app", interrupted)
    cli.main()
    assert codes == [130]
    assert ("run the same command again" in capsys.readouterr().err) is told


def test_a_fault_of_ours_is_told_apart_from_a_gate_that_said_no(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(cli, "configure_logs", lambda: None)
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 5
    assert "unforeseen" in capsys.readouterr().err
