"""Every policy version that was ever proposed or in force, with its files, so that an old decision can be replayed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import JSON, Column, Connection, Engine, ForeignKey, Integer, MetaData, String, Table, insert, select

from federation.core.clock import from_text, to_text
from federation.core.ids import PolicyVersion

METADATA = MetaData()
"""Of everything in the policy's database."""
_VERSIONS = Table(
    "policy_versions",
    METADATA,
    Column("version", String(64), primary_key=True),
    Column("files", JSON, nullable=False),  # name to text, as it was when the version was proposed first
)
_ACTIVATIONS = Table(
    "policy_activations",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("version", ForeignKey(_VERSIONS.c.version), nullable=False),
    Column("at", String(40), nullable=False),
)


@dataclass(frozen=True)
class Activation:
    """From when a version was in force, until the next activation."""

    version: PolicyVersion
    at: datetime


class VersionStore(Protocol):
    """Keeps versions; durable when a call returns."""

    def activate(self, version: PolicyVersion, files: Mapping[str, str], at: datetime) -> Activation:
        """Puts a version in force. One that is the latest already keeps the time it came into force."""
        ...

    def latest(self) -> Activation | None:
        """The version in force, None before the first."""
        ...

    def history(self) -> list[Activation]:
        """All activations, oldest first."""
        ...

    def files(self, version: PolicyVersion) -> Mapping[str, str] | None:
        """The texts of a version, None if nobody ever proposed it."""
        ...


class SqlVersions:
    """VersionStore on SQLAlchemy. Versions are never deleted or rewritten."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine)

    def activate(self, version: PolicyVersion, files: Mapping[str, str], at: datetime) -> Activation:
        """See VersionStore."""
        with self._engine.begin() as db:
            latest = latest_in(db)
            if latest is not None and latest.version == version:
                return latest
            keep_files(db, version, files)
            activate_in(db, version, at)
        return Activation(version, at)

    def latest(self) -> Activation | None:
        """See VersionStore."""
        with self._engine.begin() as db:
            return latest_in(db)

    def history(self) -> list[Activation]:
        """See VersionStore."""
        with self._engine.begin() as db:
            rows = db.execute(select(_ACTIVATIONS).order_by(_ACTIVATIONS.c.id)).all()
        return [Activation(PolicyVersion(row.version), from_text(row.at)) for row in rows]

    def files(self, version: PolicyVersion) -> Mapping[str, str] | None:
        """See VersionStore."""
        with self._engine.begin() as db:
            found = db.execute(select(_VERSIONS.c.files).where(_VERSIONS.c.version == version)).scalar_one_or_none()
        return None if found is None else dict(found)


# What happens within a transaction that the caller opened, so that a step and its effect are one.


def latest_in(db: Connection) -> Activation | None:
    """The version in force."""
    row = db.execute(select(_ACTIVATIONS).order_by(_ACTIVATIONS.c.id.desc()).limit(1)).first()
    return None if row is None else Activation(PolicyVersion(row.version), from_text(row.at))


def activations_after(db: Connection, number: int) -> list[tuple[int, Activation]]:
    """Activations with a higher number, oldest first."""
    rows = db.execute(select(_ACTIVATIONS).where(_ACTIVATIONS.c.id > number).order_by(_ACTIVATIONS.c.id)).all()
    return [(row.id, Activation(PolicyVersion(row.version), from_text(row.at))) for row in rows]


def keep_files(db: Connection, version: PolicyVersion, files: Mapping[str, str]) -> None:
    """Keeps the texts of a version, unless they are there."""
    if db.execute(select(_VERSIONS.c.version).where(_VERSIONS.c.version == version)).first() is None:
        db.execute(insert(_VERSIONS).values(version=version, files=dict(files)))


def activate_in(db: Connection, version: PolicyVersion, at: datetime) -> int:
    """Puts a version in force whose files are kept; returns the number of the activation."""
    made = insert(_ACTIVATIONS).values(version=version, at=to_text(at)).returning(_ACTIVATIONS.c.id)
    return int(db.execute(made).scalar_one())
