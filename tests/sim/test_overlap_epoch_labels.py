"""Several columns at once as labels, two of them derived from the holdings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from federation.core.clock import FixedClock
from federation.core.errors import EntenteError, Reason
from federation.overlap.plan import label_of, labels_of, parse_label
from federation.policy.specs import BandSpec, PartySpec
from tests.kits.overlap_world import Data, Eligible, World, make_policy, people

BANDS = BandSpec(edges=(1, 200, 500), cap=2000)


@dataclass
class WithHoldings(Data):
    """A partner's rows, with products and what they bring in a year."""

    held: pd.DataFrame = field(default_factory=pd.DataFrame)

    def holdings(self) -> pd.DataFrame:
        return self.held


def airline(held: list[tuple[str, str, Any]]) -> WithHoldings:
    base = people("airline", {f"p{n}": ("active", "silent", "odd")[n % 3] for n in range(6)}, "activity")
    table = pd.DataFrame(held, columns=["customer_id", "product", "yearly_value_eur"])
    return WithHoldings(base.table, base.consented, held=table)


def world_of(folder: Path, clock: FixedClock, data: Data) -> World:
    policy = make_policy(("airline", "bank"), {"bank": {"tier": ("basic", "high")}})
    segments = {"holds_miles_card": ("yes", "no"), "activity": ("active", "silent")}
    policy.parties["airline"] = PartySpec(
        id="airline",
        role="partner",
        display_name="a",
        country="SG",
        segments=segments,
        value_bands={"yearly_value": BANDS},
    )
    bank = people("bank", {f"p{n}": ("basic", "high")[n % 2] for n in range(4)}, "tier")
    return World(folder, clock, policy, {"airline": data, "bank": bank})


HELD = [("A000000", "miles_card", 0.7), ("A000000", "lounge", 0.1), ("A000000", "bag", 0.2), ("A000001", "bag", 600.0)]


def test_every_subset_of_columns_can_be_asked(tmp_path: Path, clock: FixedClock) -> None:
    world = world_of(tmp_path, clock, airline(HELD))
    epoch = world.build()
    index = world.coordinator.index
    assert index.labels(epoch) == {
        "airline": {
            "activity": ("active", "silent", "unknown"),
            "holds_miles_card": ("yes", "no"),
            "yearly_value": ("0-0", "1-199", "200-499", "500+"),
        },
        "bank": {"tier": ("basic", "high", "unknown")},
    }
    both = ("airline", "bank")
    everything = ("airline.yearly_value", "airline.activity", "airline.holds_miles_card", "bank.tier")
    full = index.exact(epoch, both, everything)
    rows = {
        0: ("1-199", "active", "yes", "basic"),  # 0.7 + 0.1 + 0.2 is 1, though not in binary
        1: ("500+", "silent", "no", "high"),
        2: ("0-0", "unknown", "no", "basic"),
        3: ("0-0", "active", "no", "high"),
    }
    expected = {(both, tuple(zip(everything, row, strict=True))): 1 for row in rows.values()}
    expected[("airline",), tuple(zip(everything[:3], ("0-0", "silent", "no"), strict=True))] = 1
    expected[("airline",), tuple(zip(everything[:3], ("0-0", "unknown", "no"), strict=True))] = 1
    assert full == expected
    for by in ((), everything[:1], everything[1:3], (everything[3], everything[0])):
        marginal: dict[Any, int] = {}
        for (members, labels), count in full.items():
            cell = (members, tuple((c, dict(labels)[c]) for c in by if c.partition(".")[0] in members))
            marginal[cell] = marginal.get(cell, 0) + count
        assert index.exact(epoch, both, by) == marginal


def test_the_partners_own_rules_are_asked_about_every_column_that_labels_a_person(
    tmp_path: Path, clock: FixedClock
) -> None:
    asked: dict[str, frozenset[str]] = {}

    class Asking(WithHoldings):
        def eligible(
            self, purpose: str, data_category: str, recipient: str, *, fields: frozenset[str] = frozenset()
        ) -> Eligible:
            asked[purpose] = fields
            refused = {"field_not_allowed": len(self.table)} if fields else {}
            return Eligible(pa.array([] if fields else list(self.consented[purpose]), pa.string()), refused)

    data = airline(HELD)
    world = world_of(tmp_path, clock, Asking(data.table, data.consented, held=data.held))
    epoch = world.build()
    assert asked == {
        "overlap_statistics": frozenset({"activity", "holds_miles_card", "yearly_value"}),
        "offer_sharing": frozenset(),
    }
    assert world.coordinator.index.exact(epoch, ("airline", "bank"), ()) == {(("bank",), ()): 4}


@pytest.mark.parametrize("amount", ["many", -1.0, float("inf"), float("nan")])
def test_an_amount_that_is_none_sends_nothing(tmp_path: Path, clock: FixedClock, amount: Any) -> None:
    world = world_of(tmp_path, clock, airline([("A000000", "bag", amount)]))
    with pytest.raises(EntenteError) as caught:
        world.build()
    assert caught.value.reason is Reason.BROKEN_ROW
    assert caught.value.item == "holdings, column yearly_value_eur: not an amount of zero or more"


def test_too_many_combinations_are_refused_before_anything_is_asked(tmp_path: Path, clock: FixedClock) -> None:
    wide = {f"c{n}": tuple(f"v{m}" for m in range(6)) for n in range(3)}  # 7 values each, with "unknown"
    policy = make_policy(("airline", "bank"), {"bank": wide})
    world = World(tmp_path, clock, policy, {name: people(name, {}) for name in ("airline", "bank")})
    with pytest.raises(EntenteError) as caught:
        world.coordinator.begin("", "email")
    assert caught.value.reason is Reason.POLICY_INVALID
    assert caught.value.item == "party bank: 343 combinations of labels, at most 256"


def test_a_label_has_one_spelling() -> None:
    party = make_policy(("p",), {"p": {"b": ("x",), "a": ("y", "unknown")}}).parties["p"]
    assert labels_of(party) == ("a=y;b=x", "a=y;b=unknown", "a=unknown;b=x", "a=unknown;b=unknown")
    assert all(label_of(parse_label(label)) == label for label in labels_of(party))
    assert parse_label("") == {}


def party(**values: Any) -> PartySpec:
    return PartySpec.model_validate({"id": "a", "role": "partner", "display_name": "a", "country": "SG", **values})


def test_bands_tile_the_whole_numbers_up_to_the_cap() -> None:
    bands = BANDS.bands
    assert [(band.name, band.low, band.high) for band in bands] == [
        ("0-0", 0, 0), ("1-199", 1, 199), ("200-499", 200, 499), ("500+", 500, 2000)
    ]  # fmt: skip
    for bad in ({"edges": (5, 5), "cap": 9}, {"edges": (9, 5), "cap": 9}, {"edges": (5,), "cap": 4}):
        with pytest.raises(ValidationError):
            BandSpec.model_validate(bad)


def test_a_declaration_that_cannot_be_meant_is_refused() -> None:
    for bad in (
        {"segments": {"owns_car": [True, False]}},
        {"segments": {"holds_home": ["yes", "maybe"]}},
        {"segments": {"tier": ["a", "a"]}},
        {"segments": {"yearly_value": ["low"]}, "value_bands": {"yearly_value": {"edges": [1], "cap": 2}}},
        {"value_bands": {"age": {"edges": [1], "cap": 2}}},
    ):
        with pytest.raises(ValidationError):
            party(**bad)
