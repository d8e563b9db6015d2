"""What several files of tests share."""

from pathlib import Path

import pytest

from federation.core.clock import FixedClock
from federation.core.database import open_database
from gateway.identity.authority import Authority
from gateway.identity.registry import Registry
from tests.kits.offers import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An alliance in which everybody on the switchboard agreed to offers."""
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    return world


@pytest.fixture
def authority(clock: FixedClock) -> Authority:
    return Authority.create("skyline", clock.now())


@pytest.fixture
def registry(authority: Authority, clock: FixedClock) -> Registry:
    return Registry(open_database(None), "skyline", authority.certificate, clock)
