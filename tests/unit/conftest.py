"""What several files of tests share."""

from pathlib import Path

import pytest

from federation.core.database import open_database
from tests.kits.offers import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An alliance in which everybody on the switchboard agreed to offers."""
    world = World(open_database(tmp_path / "gateway.db"))
    world.agree()
    return world
