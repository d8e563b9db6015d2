"""What every store of policy versions must do."""

from datetime import UTC, datetime, timedelta

import pytest

from federation.core.database import open_database
from federation.core.ids import PolicyVersion
from gateway.policy.versions import Activation, SqlVersions

AT = datetime(2026, 11, 1, tzinfo=UTC)
ONE, TWO = PolicyVersion("1" * 64), PolicyVersion("2" * 64)


@pytest.fixture(params=["memory", "file"])
def engine(request, tmp_path):
    engine = open_database(None if request.param == "memory" else tmp_path / "state.db")
    yield engine
    engine.dispose()


def test_versions_are_kept_in_order_and_with_their_files(engine):
    store = SqlVersions(engine)
    assert store.latest() is None
    assert store.files(ONE) is None
    assert store.activate(ONE, {"a.yaml": "é: 1"}, AT) == Activation(ONE, AT)
    assert store.activate(TWO, {"a.yaml": "b"}, AT + timedelta(1)) == Activation(TWO, AT + timedelta(1))
    assert store.activate(ONE, {"a.yaml": "other"}, AT + timedelta(2)) == Activation(ONE, AT + timedelta(2))
    assert [activation.version for activation in store.history()] == [ONE, TWO, ONE]
    assert store.files(ONE) == {"a.yaml": "é: 1"}  # never rewritten


def test_the_version_in_force_keeps_its_time(engine):
    SqlVersions(engine).activate(ONE, {}, AT)
    again = SqlVersions(engine)  # as after a restart
    assert again.activate(ONE, {}, AT + timedelta(1)) == Activation(ONE, AT)
    assert again.history() == [Activation(ONE, AT)]
