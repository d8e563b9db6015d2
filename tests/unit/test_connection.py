"""Before a call: a certificate that expired is said at once, a gateway that does not answer soon."""

from datetime import UTC, datetime, timedelta

import pytest

from federation.cli import console
from federation.client.connection import Connection
from federation.core.clock import FixedClock
from federation.core.errors import IdentityError, Reason, TransportError
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
