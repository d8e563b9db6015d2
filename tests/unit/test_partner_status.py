"""``entente partner status``: what it shows is what was said."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli import console, partner_status
from federation.client.alone import alone
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import Reason, TransportError


def test_brackets_in_what_a_part_says_are_shown_as_they_are(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"state": "waiting", "since": "2026-11-01T00:00:00", "text": "Mend [data] in partner.yaml."}
    (tmp_path / partner_status.STATUS_FILE).write_text(json.dumps({"parts": {"overlap": said}}))

    def wait_ready(_timeout_s: float) -> None:
        raise TransportError(Reason.UNAVAILABLE)

    place: Any = SimpleNamespace(
        config=SimpleNamespace(state=tmp_path, party="bank", gateway="127.0.0.1:1"),
        connection=SimpleNamespace(wait_ready=wait_ready),
        consents=SimpleNamespace(pending=lambda: 0),
        egress=SimpleNamespace(summary=list),
        engine=open_database(None),
        clock=clock,
    )
    monkeypatch.setattr(partner_status, "workplace", lambda _: nullcontext(place))
    monkeypatch.setattr(console.out, "width", 120)
    with alone(tmp_path), console.out.capture() as captured:
        partner_status.status(tmp_path)
    assert said["text"] in captured.get()
    assert "\\" not in captured.get()
