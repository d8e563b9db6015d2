"""``entente consent`` says no to what it would otherwise only seem to have done."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from federation.cli import consent
from federation.client.consent.link import ConsentLink
from federation.core.database import open_database
from federation.core.errors import DataError
from federation.policy.load import load_policy, parse_policy
from gateway.alliance import shipped_policies
from tests.kits.offers import BANK, FakePolicy, Partner, Stub, World, customer, given
from tests.kits.policy import files

PERSON = customer(1)


@pytest.fixture
def partner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Partner:
    world = World(open_database(None))
    made = Partner(tmp_path, BANK, world.clock, FakePolicy())
    made.write([1])
    stub: object = Stub(world, BANK)
    link = ConsentLink(stub, made.data, made.handles, made.engine)  # type: ignore[arg-type]
    place = SimpleNamespace(policy=load_policy(shipped_policies()), data=made.data, consents=link, clock=world.clock)
    place.config = SimpleNamespace(consent=None)
    monkeypatch.setattr(consent, "workplace", lambda config: nullcontext(place))
    return made


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(consent.app, [*arguments, "--config", "anywhere"])


def test_a_misspelt_purpose_is_refused_and_not_acknowledged_as_withdrawn(partner: Partner) -> None:
    said = _run("withdraw", PERSON, "--purpose", "offer_shring")
    assert isinstance(said.exception, DataError)
    assert "offer_sharing" in said.exception.item  # what it may have been
    assert "offer_shring" not in partner.book.purposes_of(PERSON)
    assert _run("withdraw", PERSON, "--purpose", "offer_sharing").exit_code == 0
    fact = partner.book.lookup(PERSON, "offer_sharing")
    assert fact is not None
    assert fact.status == "withdrawn"


def test_a_consent_for_a_purpose_that_the_policy_dropped_can_be_withdrawn_but_not_given(partner: Partner) -> None:
    partner.book.record(PERSON, "old_purpose", given())
    assert _run("withdraw", PERSON, "--purpose", "old_purpose").exit_code == 0
    again = _run("record", PERSON, "--purpose", "old_purpose", "--recipients", "insurer")
    assert isinstance(again.exception, DataError)


@pytest.mark.parametrize(
    ("words", "item", "advice"),
    [
        (("--recipients", "bnk"), "--recipients bnk", "insurer"),
        (("--recipients", " , "), "--recipients nobody", "insurer"),
        (("--recipients", "insurer", "--jurisdiction", "USA"), "--jurisdiction USA", "GDPR"),
    ],
)
def test_a_consent_that_would_count_for_nothing_is_not_recorded(
    partner: Partner, words: tuple[str, ...], item: str, advice: str
) -> None:
    before = partner.book.lookup(PERSON, "offer_sharing")
    said = _run("record", PERSON, *words)
    assert isinstance(said.exception, DataError)
    assert said.exception.item == item
    assert advice in said.exception.fix
    assert partner.book.lookup(PERSON, "offer_sharing") == before


def test_a_person_who_objects_to_automated_marketing_needs_no_consent_to_it_before(partner: Partner) -> None:
    assert _run("withdraw", PERSON, "--purpose", "automated_marketing").exit_code == 0
    fact = partner.book.lookup(PERSON, "automated_marketing")
    assert fact is not None
    assert fact.status == "withdrawn"


def test_a_purpose_may_be_described_at_the_length_that_the_policy_allows(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = parse_policy(
        files(purposes=("A partner lets another partner offer its product", "A partner may " + "x" * 530))
    )
    with consent.workplace(Path("anywhere")) as place:
        monkeypatch.setattr(place, "policy", long)
    assert _run("record", PERSON, "--recipients", "insurer").exit_code == 0


def test_a_separate_consent_to_sensitive_fields_is_a_record_of_its_own(partner: Partner) -> None:
    purpose, before = "offer_sharing_sensitive", partner.book.lookup(PERSON, "offer_sharing")
    assert _run("record", PERSON, "--recipients", "insurer", "--purpose", purpose, "--separate").exit_code == 0
    fact = partner.book.lookup(PERSON, purpose)
    assert fact is not None
    assert (fact.status, fact.separate) == ("given", True)
    assert partner.book.lookup(PERSON, "offer_sharing") == before
    assert isinstance(
        _run("record", PERSON, "--recipients", "insurer", "--purpose", "x_sensitive").exception, DataError
    )


def _living_in(partner: Partner, region: str) -> None:
    columns = "customer_id,email,phone,age,job,region"
    partner.lines("customers", columns, f"{PERSON},a@example.com,,44,clerk,{region}")


@pytest.mark.parametrize(("region", "law"), [("DE", "GDPR"), ("CN", "PIPL"), ("SG", "PDPA")])
def test_a_consent_is_taken_under_the_law_of_the_region_unless_another_is_named(
    partner: Partner, region: str, law: str
) -> None:
    _living_in(partner, region)
    for words, expected in (((), law), (("--jurisdiction", "GDPR"), "GDPR")):
        said = _run("record", PERSON, "--recipients", "insurer", "--json", *words)
        assert said.exit_code == 0, said.exception
        fact = partner.book.lookup(PERSON, "offer_sharing")
        assert fact is not None
        assert fact.jurisdiction == expected


@pytest.mark.parametrize(
    ("region", "item"), [("", "the customer's region is not known"), ("US", "no region of the policy has US")]
)
def test_without_a_law_of_the_region_one_must_be_named(partner: Partner, region: str, item: str) -> None:
    _living_in(partner, region)
    before = partner.book.lookup(PERSON, "offer_sharing")
    said = _run("record", PERSON, "--recipients", "insurer")
    assert isinstance(said.exception, DataError)
    assert said.exception.item == item
    assert said.exception.fix == "Name the law: --jurisdiction GDPR or PDPA or PIPL."
    assert partner.book.lookup(PERSON, "offer_sharing") == before
    assert _run("record", PERSON, "--recipients", "insurer", "--jurisdiction", "PIPL").exit_code == 0


def test_show_says_that_a_consent_has_expired_and_which_law_it_is_under(
    partner: Partner, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("record", PERSON, "--recipients", "insurer", "--expires-at", "2099-01-01T00:00:00Z")
    shown = _run("show", PERSON).output + capsys.readouterr().out
    assert " given " in shown
    assert " GDPR " in shown  # another law than that of the person's region would count for nothing
    partner.clock.at += timedelta(days=36_500)
    assert " expired " in _run("show", PERSON).output + capsys.readouterr().out
