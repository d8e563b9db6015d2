"""The real input: every region and the cross table must be the true ones, to the last person, with noise off."""

import json
from pathlib import Path

import pandas as pd
import pytest

from federation.core.clock import FixedClock
from tests.conftest import NOW
from tests.kits.overlap_world import SEGMENTS, Data, World, make_policy

PARTNERS = ("bank", "insurer", "airline")


def read(folder: Path) -> Data:
    """A partner's files; who may be in the statistics is who has a given, unexpired consent."""
    table = pd.read_csv(folder / "customers.csv", dtype=str, keep_default_na=False).set_index("customer_id")
    consents = pd.read_csv(folder / "consents.csv", dtype=str, keep_default_na=False)
    live = (consents["status"] == "given") & (pd.to_datetime(consents["expires_at"]) > NOW)
    agreed = {p: set(consents.loc[live & (consents["purpose"] == p), "customer_id"]) for p in ("overlap_statistics",)}
    ids = [name for name in table.index if name in agreed["overlap_statistics"]]
    return Data(table, {"overlap_statistics": ids, "offer_sharing": []})


@pytest.mark.parametrize("key_type", ["email", "phone"])
def test_the_overlap_is_the_true_one(real_data: Path, tmp_path: Path, clock: FixedClock, key_type: str) -> None:
    truth = json.loads((real_data / "truth.json").read_text())[key_type]
    world = World(
        tmp_path, clock, make_policy(PARTNERS, pad_to=512), {name: read(real_data / name) for name in PARTNERS}
    )
    epoch = world.build(key_type)
    exact = world.coordinator.index.exact
    regions = {"+".join(members): count for (members, _), count in exact(epoch, PARTNERS, ()).items()}
    assert regions == {name: count for name, count in truth["exclusive_regions"].items() if count}
    cross = exact(epoch, ("bank", "airline"), ("bank.value_tier", "airline.activity"))
    both = {(labels[0][1], labels[1][1]): count for (members, labels), count in cross.items() if len(members) == 2}
    table = truth["bank.value_tier x airline.activity within bank and airline"]
    assert both == {(tier, kind): count for tier, row in table.items() for kind, count in row.items() if count}
    assert set(SEGMENTS["bank"]["value_tier"]) == {tier for tier, _ in both}
