"""A file that lost many people at once is not believed, unless the partner says so; what was withdrawn here is."""

from datetime import timedelta
from pathlib import Path

import pytest
import structlog
import yaml

from federation.client.consent.register import Register
from federation.client.files.columns import ColumnStore
from federation.client.overlap.shrink import PERMISSION_FILE, SMALL, ShrinkLimit
from federation.core.clock import FixedClock
from federation.core.errors import DataError, Reason
from federation.core.ids import PartyId
from tests.kits.command import entente
from tests.kits.overlap_changes import consent
from tests.kits.overlap_world import World, make_policy, people
from tests.kits.refused import refused

BOTH = ("airline", "bank")
HEADER = "customer_id,purpose,status,recipients,given_at,expires_at,separate_consent,cross_border_consent,jurisdiction"


def world_of(folder: Path, clock: FixedClock) -> tuple[World, str]:
    """A hundred people at each; the bank's are to go."""
    data = {name: people(name, {f"p{n}": "" for n in range(100)}, sharing=range(50)) for name in BOTH}
    world = World(folder, clock, make_policy(BOTH, {}), data)
    return world, world.build()


def keep(world: World, first: int) -> None:
    """The file of the bank ends after some rows."""
    bank = world.data["bank"]
    bank.table = bank.table.iloc[:first]
    consent(bank, **{use: [name for name in ids if name in bank.table.index] for use, ids in bank.consented.items()})


def at_bank(world: World, epoch: str) -> int:
    return sum(world.coordinator.index.exact(epoch, ("bank",), ()).values())


def test_a_file_that_was_copied_half_takes_nobody_away_until_somebody_says_so(
    tmp_path: Path, clock: FixedClock
) -> None:
    world, epoch = world_of(tmp_path, clock)
    keep(world, 12)
    told = refused(Reason.FILE_SHRANK, world.update, "bank")
    assert "88 of 100 people" in told
    assert at_bank(world, epoch) == 100
    limit = ShrinkLimit(tmp_path / "bank", 0.2, clock)
    limit.permit(87)  # of another day, or of another file
    refused(Reason.FILE_SHRANK, world.update, "bank")
    limit.permit(88)
    world.update("bank")
    assert at_bank(world, epoch) == 12
    assert not (tmp_path / "bank" / PERMISSION_FILE).exists()


def test_the_gateway_hears_no_number(tmp_path: Path, clock: FixedClock) -> None:
    world, _ = world_of(tmp_path, clock)
    keep(world, 12)
    newest = world.coordinator.deltas.newest()
    assert newest is not None
    world.coordinator.deltas.ask(newest.plan, ["bank"], withdrawals_only=False)
    [task] = [task for _, task in world.coordinator.deltas.tasks(PartyId("bank")) if task.HasField("delta")]
    report = world.agents["bank"].work(task)
    assert (report.reason, "88" in report.text) == ("FILE_SHRANK", False)


def test_a_switchboard_that_empties_is_not_believed_either(tmp_path: Path, clock: FixedClock) -> None:
    world, _ = world_of(tmp_path, clock)
    consent(world.data["bank"], offer_sharing=[])
    assert "50 of 50 people" in refused(Reason.FILE_SHRANK, world.update, "bank")


def test_before_an_answer_only_who_withdrew_here_goes_and_the_answer_is_refused(
    tmp_path: Path, clock: FixedClock
) -> None:
    """A table without the rest would be wrong, and nobody could say for whom a consent ended in the file."""
    world, epoch = world_of(tmp_path, clock)
    gone, stays = world.data["bank"].table.index[[99, 3]]
    keep(world, 12)
    world.data["bank"].said = [gone, stays]
    for told in ("88 of 100 people", "87 of 99 people"):
        assert told in refused(Reason.FILE_SHRANK, world.update, "bank", withdrawals_only=True)
        world.work()
        assert at_bank(world, epoch) == 99
    ShrinkLimit(tmp_path / "bank", 0.2, clock).permit(87)
    world.update("bank", withdrawals_only=True)
    assert at_bank(world, epoch) == 12


def test_a_few_people_may_always_go_and_relabelled_ones_are_not_gone(tmp_path: Path, clock: FixedClock) -> None:
    world, epoch = world_of(tmp_path, clock)
    keep(world, 100 - SMALL)
    world.update("bank")
    assert at_bank(world, epoch) == 100 - SMALL


def test_a_permission_ends_after_a_day(tmp_path: Path, clock: FixedClock) -> None:
    ShrinkLimit(tmp_path, 0.2, clock).permit(500)
    later = FixedClock(clock.now() + timedelta(days=2))
    limit = ShrinkLimit(tmp_path, 0.2, later)
    with pytest.raises(DataError) as caught:
        limit.check((500, 1000))
    assert "accept-shrink 500" in caught.value.fix


def test_the_command_writes_the_permission(tmp_path: Path, clock: FixedClock) -> None:
    (tmp_path / "partner.yaml").write_text(yaml.safe_dump({"party": "bank", "gateway": "127.0.0.1:1"}))
    assert entente("partner", "accept-shrink", "500", "--config", str(tmp_path)).returncode == 0
    ShrinkLimit(tmp_path / "state", 0.2, clock).check((500, 1000))


def write(path: Path, *times: str) -> Register:
    rows = [
        f"C{n},overlap_statistics,given,gateway,{time},2030-01-01T00:00:00Z,1,0,GDPR" for n, time in enumerate(times)
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return Register(path, ColumnStore())


def test_a_consents_file_whose_dates_cannot_be_read_is_broken(tmp_path: Path) -> None:
    good, bad = "2026-08-15T00:00:00+02:00", "15.08.2026"
    register = write(tmp_path / "consents.csv", *[good] * 50, *[bad] * 50)
    told = refused(Reason.BROKEN_ROW, register.read)
    assert told.startswith("consents.csv, row 52, column given_at: ")
    assert "50 of 100 rows" in told
    assert bad not in told
    refused(Reason.BROKEN_ROW, register.read)  # and is so at the second look
    write(tmp_path / "consents.csv", *[good] * 100)
    assert len(register.read()["overlap_statistics"]) == 100


def test_single_dates_that_cannot_be_read_are_told_by_row(tmp_path: Path) -> None:
    good, bad = "2026-08-15T00:00:00+02:00", "15.08.2026"
    with structlog.testing.capture_logs() as said:
        read = write(tmp_path / "consents.csv", *[good] * 30, bad, "", *[good] * 30).read()
    assert len(read["overlap_statistics"]) == 62
    [line] = said
    assert (line["event"], line["rows"], line["count"]) == ("consent_times_unreadable", [32], 1)
    assert bad not in str(line)
