"""The database of each side: what a caller hears while others write, and rows with a key of several columns."""

from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.exc import OperationalError

from federation.core import database
from federation.core.database import is_busy, open_database, rows_with

TABLE = Table("t1", MetaData(), Column("a", String, primary_key=True), Column("b", Integer, primary_key=True))


def test_others_who_write_for_long_are_told_from_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    first, second = open_database(tmp_path / "a.db"), open_database(tmp_path / "a.db")
    with first.begin(), pytest.raises(OperationalError) as error, second.begin():
        pass
    assert is_busy(error.value)
    with pytest.raises(OperationalError) as error, first.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert not is_busy(error.value)
    assert not is_busy(ValueError())


@pytest.mark.parametrize("most", [2, 3, 990])
def test_rows_are_found_by_all_columns_of_a_key(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_MAX_PARAMETERS", most)
    engine = open_database(None)
    TABLE.metadata.create_all(engine)
    rows = [(name, number) for name in "xyz" for number in range(4)]
    with engine.begin() as connection:
        connection.execute(TABLE.insert(), [{"a": name, "b": number} for name, number in rows])
        wanted = [("x", 3), ("z", 0), ("x", 9), ("w", 1), ("y", 2)]
        assert [tuple(row) for row in rows_with(connection, TABLE, ("a", "b"), wanted)] == [
            ("x", 3),
            ("z", 0),
            ("y", 2),
        ]
        assert list(rows_with(connection, TABLE, ("a", "b"), [])) == []
        assert len(list(rows_with(connection, TABLE, ("a",), [("x",)]))) == 4
