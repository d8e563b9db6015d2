"""Every policy version that was ever in force, with its files, so that an old decision can be replayed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import JSON, Column, Engine, ForeignKey, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from federation.core.clock import from_text, to_text
from federation.core.ids import PolicyVersion

_METADATA = MetaData()
_VERSIONS = Table(
    "policy_versions",
    _METADATA,
    Column("version", String(64), primary_key=True),
    Column("files", JSON, nullable=False),  # name to text, as it was when the version came into force first
)
_ACTIVATIONS = Table(
    "policy_activations",
    _METADATA,
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
        """The texts of a version, None if it was never in force."""
        ...


class SqlVersions:
    """VersionStore on SQLAlchemy. Versions are never deleted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _METADATA.create_all(engine)

    def activate(self, version: PolicyVersion, files: Mapping[str, str], at: datetime) -> Activation:
        """See VersionStore."""
        latest = self.latest()
        if latest is not None and latest.version == version:
            return latest
        if self.files(version) is None:
            try:
                with self._engine.begin() as db:
                    db.execute(insert(_VERSIONS).values(version=version, files=dict(files)))
            except IntegrityError:  # another process kept the same version at the same moment
                if self.files(version) is None:
                    raise
        with self._engine.begin() as db:
            db.execute(insert(_ACTIVATIONS).values(version=version, at=to_text(at)))
        return Activation(version, at)

    def latest(self) -> Activation | None:
        """See VersionStore."""
        with self._engine.begin() as db:
            row = db.execute(select(_ACTIVATIONS).order_by(_ACTIVATIONS.c.id.desc()).limit(1)).first()
        return None if row is None else Activation(PolicyVersion(row.version), from_text(row.at))

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
