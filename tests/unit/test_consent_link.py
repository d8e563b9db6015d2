"""Withdrawals reach the gateway, at once or later, and never get lost on the way."""

from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from federation.client.consent.importing import ConsentImport
from federation.client.consent.link import ConsentLink
from federation.consent.statements import FIELDS
from federation.core.database import open_database
from federation.core.ids import CustomerId
from tests.conftest import NOW
from tests.kits.offers import BANK, FakePolicy, Partner, Stub, World, customer, given

PURPOSE = "offer_sharing"


class Side:
    """A partner, its stub and its link."""

    def __init__(self, folder: Path) -> None:
        self.world = World(open_database(None))
        self.partner = Partner(folder, BANK, self.world.clock, FakePolicy())
        self.partner.write([1, 2, 3])
        self.stub = Stub(self.world, BANK)
        self.restart()

    def restart(self) -> None:
        self.partner.reopen()
        link_stub: object = self.stub
        self.link = ConsentLink(link_stub, self.partner.data, self.partner.handles, self.partner.engine)  # type: ignore[arg-type]

    def upload(self, *customers: CustomerId) -> int:
        return self.link.upload(list(zip(customers, self.partner.handles.handles_for(customers), strict=True)))

    def at_gateway(self, person: int) -> str | None:
        handle = self.partner.handles.existing(customer(person))
        found = self.world.consents.get(BANK, handle, PURPOSE) if handle else None
        return found.fact.status if found else None


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def test_upload_sends_current_states_by_handle(side: Side) -> None:
    side.partner.book.withdraw(customer(2), PURPOSE)
    assert side.upload(customer(1), customer(2), CustomerId("C99")) == 2
    assert [side.at_gateway(n) for n in (1, 2, 3)] == ["given", "withdrawn", None]
    [(_, request)] = side.stub.calls
    assert all(b"C%d" % n not in request.SerializeToString() for n in (1, 2, 99))
    handle = side.partner.handles.existing(customer(1))
    assert handle is not None
    record = side.world.consents.get(BANK, handle, PURPOSE)
    assert record is not None
    assert (record.fact, record.region) == (side.partner.book.lookup(customer(1), PURPOSE), "PT")


def test_a_withdrawal_is_acknowledged(side: Side) -> None:
    side.upload(customer(1))
    outcome = side.link.withdraw(customer(1), PURPOSE)
    assert (outcome.acknowledged, outcome.offers_removed, side.at_gateway(1)) == (True, 0, "withdrawn")
    assert "at the gateway" in outcome.text
    assert side.link.pending() == 0


def test_without_a_gateway_it_holds_here_and_waits_in_the_outbox(side: Side) -> None:
    side.upload(customer(1))
    side.stub.down = True
    outcome = side.link.withdraw(customer(1), PURPOSE)
    assert not outcome.acknowledged
    assert "NOT acknowledged" in outcome.text
    assert "C1" not in side.partner.data.eligible(PURPOSE, "offer_proposal", "insurer").ids
    side.restart()
    assert side.link.pending() == 1
    with pytest.raises(grpc.RpcError):
        side.link.flush()
    assert side.at_gateway(1) == "given"
    side.stub.down = False
    assert (side.link.flush(), side.link.flush(), side.at_gateway(1)) == (1, 0, "withdrawn")


def test_a_lost_answer_is_asked_for_again(side: Side) -> None:
    side.upload(customer(1))
    side.stub.lose_answer_of = "WithdrawConsent"
    assert not side.link.withdraw(customer(1), PURPOSE).acknowledged
    assert (side.link.pending(), side.at_gateway(1)) == (1, "withdrawn")
    assert side.link.flush() == 1


def test_whom_the_gateway_never_heard_of_it_need_not_forget(side: Side) -> None:
    side.stub.down = True
    assert side.link.withdraw(customer(1), PURPOSE).acknowledged
    assert side.link.pending() == 0
    side.stub.down = False
    side.upload(customer(1))
    assert side.at_gateway(1) == "withdrawn"


def test_of_what_no_offer_needs_the_gateway_hears_nothing(side: Side) -> None:
    """A message about a handle, and a token that goes at that moment, would say which token and handle are one."""
    side.upload(customer(1))
    del side.stub.calls[:]
    for purpose in ("overlap_statistics", "model_training"):
        assert not side.link.record(customer(1), purpose, given())
        assert side.link.withdraw(customer(1), purpose).acknowledged
        state = side.partner.book.lookup(customer(1), purpose)
        assert state is not None
        assert state.status == "withdrawn"
    assert (side.stub.calls, side.link.pending()) == ([], 0)


def test_an_upload_that_was_on_its_way_does_not_undo_a_withdrawal(side: Side) -> None:
    side.upload(customer(1))
    [(_, stale)] = side.stub.calls
    side.link.withdraw(customer(1), PURPOSE)
    assert side.stub.RecordConsents(stale, timeout=1).recorded == 0
    assert side.at_gateway(1) == "withdrawn"


def test_agreeing_again_reaches_the_gateway(side: Side) -> None:
    assert not side.link.record(customer(1), PURPOSE, given())  # not on the switchboard yet
    side.upload(customer(1))
    side.link.withdraw(customer(1), PURPOSE)
    side.world.clock.at = NOW + timedelta(minutes=1)
    assert side.link.record(customer(1), PURPOSE, given())
    assert side.at_gateway(1) == "given"
    side.stub.down = True
    assert not side.link.record(customer(1), PURPOSE, given())


def test_a_withdrawal_that_waited_does_not_undo_a_later_agreement(side: Side) -> None:
    side.upload(customer(1))
    side.stub.down = True
    assert not side.link.withdraw(customer(1), PURPOSE).acknowledged
    side.world.clock.at = NOW + timedelta(minutes=1)
    assert not side.link.record(customer(1), PURPOSE, given())
    side.stub.down = False
    side.world.clock.at = NOW + timedelta(minutes=2)
    side.upload(customer(1))
    assert (side.link.flush(), side.at_gateway(1)) == (1, "given")


def test_an_import_goes_up_for_those_who_have_a_handle(side: Side) -> None:
    side.upload(customer(1), customer(2))
    assert side.link.upload_imported() == 0
    register = side.partner.folder / "register.csv"
    time = "2026-10-31T00:00:00Z,2027-10-31T00:00:00Z"
    rows = [f"C{n},{PURPOSE},withdrawn,insurer,{time},1,1,GDPR" for n in (2, 3)]
    register.write_text("\n".join((",".join(FIELDS), *rows)) + "\n")
    ConsentImport(side.partner.engine, side.world.clock).run(register)
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.link.upload_imported()
    side.restart()
    side.stub.down = False
    assert side.link.upload_imported() == 1  # the other has no handle, and customer 1 said nothing new
    assert [side.at_gateway(n) for n in (1, 2, 3)] == ["given", "withdrawn", None]
    assert side.partner.handles.existing(customer(3)) is None
    assert side.link.upload_imported() == 0


def test_who_moves_or_agrees_otherwise_in_the_files_is_known_so_at_the_gateway(side: Side) -> None:
    side.upload(customer(1), customer(2))
    assert side.link.upload_changed_files() == 0  # that is what went up
    columns = "customer_id,email,phone,age,job,region"
    side.partner.lines("customers", columns, "C1,p1@example.org,,21,clerk,CN", "C2,p2@example.org,,22,clerk,PT")
    side.stub.down = True
    with pytest.raises(grpc.RpcError):
        side.link.upload_changed_files()
    side.stub.down = False
    side.restart()
    assert side.link.upload_changed_files() == 1  # the other stayed where they were
    handle = side.partner.handles.existing(customer(1))
    assert handle is not None
    moved = side.world.consents.get(BANK, handle, PURPOSE)
    assert moved is not None
    assert moved.region == "CN"
    side.restart()
    assert side.link.upload_changed_files() == 0  # also by another process
    side.partner.lines("customers", columns, "C2,p2@example.org,,22,clerk,PT")  # copied half
    assert side.link.upload_changed_files() == 0
    assert side.world.consents.get(BANK, handle, PURPOSE) == moved


def test_whoever_moves_there_and_back_is_where_they_were(side: Side) -> None:
    """However each state went up: what is remembered is what was acknowledged last."""
    side.upload(customer(1))
    for sent, region in ((side.upload, "CN"), (lambda _: side.link.upload_changed_files(), "PT")):
        columns = "customer_id,email,phone,age,job,region"
        side.partner.lines("customers", columns, f"C1,p1@example.org,,21,clerk,{region}")
        assert sent(customer(1)) == 1
        [handle] = side.partner.handles.handles_for([customer(1)])
        found = side.world.consents.get(BANK, handle, PURPOSE)
        assert found is not None
        assert found.region == region


def test_what_the_gateway_cannot_read_in_one_row_does_not_keep_back_the_others(side: Side) -> None:
    side.upload(customer(1), customer(2), customer(3))
    columns, rows = "customer_id,email,phone,age,job,region", [f"C{n},p{n}@example.org,,21,clerk" for n in (1, 2, 3)]
    side.partner.lines("customers", columns, f"{rows[0]},Germany", f"{rows[1]},PT", f"{rows[2]},CN")
    header = "record_id," + ",".join(FIELDS)
    said = f"{PURPOSE},given,{{}},2026-10-30T00:00:00Z,2027-10-20T00:00:00Z,1,1,{{}}"
    many = " ".join(f"p{n}" for n in range(40))
    consents = [said.format("insurer", "GDPR"), said.format("Insurer! airline", "gdpr"), said.format(many, "PIPL")]
    side.partner.lines("consents", header, *(f"r,C{n},{row}" for n, row in enumerate(consents, 1)))
    assert side.link.upload_changed_files() == 3
    handles = side.partner.handles.handles_for([customer(n) for n in (1, 2, 3)])
    found = [side.world.consents.get(BANK, handle, PURPOSE) for handle in handles]
    assert [record.region for record in found if record] == [None, "PT", "CN"]
    assert [record.fact.jurisdiction for record in found if record] == ["GDPR", None, "PIPL"]
    assert [record.fact.recipients for record in found if record] == [{"insurer"}, {"airline"}, set()]
