"""The shipped policies over real input: from the bank's customer file to the insurer's inbox."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from federation.client.config import DataConfig
from federation.client.consent.book import ConsentBook
from federation.client.consent.link import ConsentLink
from federation.client.data import PartnerData
from federation.client.handles import HandleBook
from federation.client.offers.campaign import Campaign
from federation.client.offers.inbox import OfferInbox
from federation.client.offers.proposer import OfferProposer
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.ids import Handle, PartyId, Token
from federation.policy.policy_set import PolicySet
from gateway.offers.decisions import list_decisions
from tests.conftest import NOW
from tests.kits.offers import BANK, INSURER, Stub, World
from tests.kits.policy import shipped

ALL = 10_000


@dataclass
class Side:
    """One partner with real files."""

    data: PartnerData
    handles: HandleBook
    parts: tuple[Any, ...]

    @classmethod
    def open(cls, folder: Path, party: PartyId, world: World, policy: PolicySet, state: Path) -> "Side":
        engine = open_database(state / f"{party}.db")
        files = {name: folder / party / f"{name}.csv" for name in ("customers", "consents", "holdings")}
        book = ConsentBook(files["consents"], engine, FixedClock(NOW))
        data = PartnerData(DataConfig(**files), party, policy, book, FixedClock(NOW))
        handles = HandleBook(engine)
        stub = Stub(world, party)
        parts: Any = (stub, data, handles, engine)
        ids = data.eligible("offer_sharing", "blinded_identifier", "gateway").ids
        ConsentLink(*parts).upload(list(zip(ids, handles.handles_for(ids), strict=True)))
        return cls(data, handles, parts)

    def emails(self) -> "pd.Series[str]":
        mails = self.data.customers()["email"].str.strip().str.lower()
        return mails[mails != ""]


class EmailSwitchboard:
    """What the overlap protocol finds, by plain comparison: the test may look, the gateway may not."""

    def __init__(self, sides: dict[PartyId, Side]) -> None:
        self.token: dict[tuple[PartyId, Handle], Token] = {}
        self.handle: dict[tuple[Token, PartyId], Handle] = {}
        for party, side in sides.items():
            mails = side.emails()
            for mail, handle in zip(mails, side.handles.handles_for(list(mails.index)), strict=True):
                self.token[party, handle] = Token(mail.encode())
                self.handle[Token(mail.encode()), party] = handle

    def handles(self, party: PartyId, handle: Handle, most: int) -> list[tuple[PartyId, Handle]]:
        token = self.token.get((party, handle))
        found = [(at, self.handle[token, at]) for at in (BANK, INSURER) if token and (token, at) in self.handle]
        return found[:most]


def test_offers_over_real_input_under_the_shipped_policy(real_data: Path, tmp_path: Path) -> None:
    policy: Any = shipped()
    world = World(open_database(tmp_path / "gateway.db"), policy=policy)
    sides = {party: Side.open(real_data, party, world, policy, tmp_path) for party in (BANK, INSURER)}
    board = EmailSwitchboard(sides)
    world.switchboard.handles = board.handles  # type: ignore[method-assign]
    bank, insurer = sides[BANK], sides[INSURER]
    scores = pd.Series(range(len(bank.data.customers())), index=bank.data.customers().index, dtype=float)
    campaign = Campaign("home", "insurer", "phone", "First month free.", 300, ("age", "balance", "job"))
    summary = OfferProposer(*bank.parts, b"m" * 32).propose(scores, campaign)
    assert summary.picked == 300
    assert summary.accepted + sum(summary.rejected.values()) == 300
    assert summary.refused_by_own_policy["consent_refused"] > 1000

    received = OfferInbox(*insurer.parts).pull()
    decisions = list_decisions(world.log, 0, ALL)
    assert sum(decision.permitted for decision in decisions) == len(received) > 10
    codes = {given.code for decision in decisions for given in decision.reasons}
    assert "not_at_recipient" in codes
    assert {offer.status for offer in received} >= {"open", "already_held"}
    bank_mail, insurer_mail = bank.emails(), insurer.emails()
    by_mail = bank.data.customers().loc[bank_mail.index].assign(mail=bank_mail).set_index("mail")
    for offer in received:
        assert offer.customer_id is not None
        person = by_mail.loc[insurer_mail[offer.customer_id]]
        assert person["region"] != "DE"  # residents of Germany are not called
        assert set(offer.attributes) == {"age", "balance"}
        low, _, high = offer.attributes["age"].replace("+", "-200").replace("<", "0-").partition("-")
        assert int(low) <= person["age"] <= int(high)
