"""Two officers change a rule by hand: the commands of the README, over two gateway processes with mutual TLS."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.core.clock import SystemClock
from federation.core.files import write_secret
from federation.v1 import offers_pb2, policy_pb2
from tests.kits.command import entente
from tests.kits.two_gateways import Pair, offer, two_gateways


@dataclass
class Tour:
    """The alliance with a configuration for everybody."""

    pair: Pair
    folder: Path

    def run(self, *words: str, party: str = "", code: int = 0, group: str = "policy") -> Any:
        config = ("--config", str(self.config(party))) if party else ()
        done = entente(group, *words, "--json", *config)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout or done.stderr)

    def config(self, party: str) -> Path:
        """A person's folder; the second officer calls the second gateway."""
        home = self.folder / "people" / party
        if not (home / "identity").exists():
            identity = self.pair.identities[party]
            files = {"key": identity.key_pem, "certificate": identity.certificate_pem, "ca": identity.ca_pem}
            for name, pem in files.items():
                write_secret(home / "identity" / f"{name}.pem", pem)
        port = self.pair.ports[party == "compliance-2"]
        (home / "client.yaml").write_text(yaml.safe_dump({"gateway": f"127.0.0.1:{port}"}))
        return home

    def in_force(self, which: int) -> str:
        with self.pair.connect("compliance", which) as connection:
            return connection.policy.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=60).version

    def draft(self, name: str, file: str, old: str, new: str) -> str:
        folder = self.folder / name
        shutil.copytree(self.folder / "policies", folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
        return str(folder)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    folder = tmp_path_factory.mktemp("round") / "alliance"
    with two_gateways(folder, people=3) as pair:
        now = SystemClock().now()
        with pair.connect("bank", 0) as bank, pair.connect("insurer", 1) as insurer:
            offers = [offer("bank", person, now) for person in range(3)]
            bank.offers.ProposeOffers(offers_pb2.ProposeOffersRequest(offers=offers), timeout=60)
            assert len(insurer.offers.PullInbox(offers_pb2.PullInboxRequest(), timeout=60).offers) == 3
        yield Tour(pair, folder)


def test_two_officers_change_a_rule(tour: Tour) -> None:
    old = tour.in_force(0)
    draft = tour.draft("draft", "rules.yaml", "channel: [app, email, phone, branch]", "channel: [email, branch]")
    assert tour.run("test", draft, code=1)["failures"]  # some of the shipped cases use those channels
    diff = tour.run("diff", "active", draft, party="compliance")
    [change] = diff["changes"]
    assert (change["subject"], change["key"], change["effect"]) == ("rule offers", "match.channel", "stricter")
    assert diff["replay"]["to_refuse"] == diff["replay"]["considered"] >= 3
    sample = diff["replay"]["samples"][0]

    version = tour.run("propose", draft, "-m", "no calls, no app", party="compliance")["version"]
    assert tour.run("approve", version, party="compliance", code=1)["error"]["reason"] == "FOUR_EYES"
    assert tour.run("activate", version, party="compliance", code=3)["error"]["reason"] == "WRONG_STEP"
    assert tour.run("approve", version[:12], party="compliance-2")["state"] == "approved"
    assert tour.run("activate", version[:12], party="compliance")["state"] == "put in force"
    assert tour.in_force(0) == version
    time.sleep(1)  # the other process may look a second later
    assert tour.in_force(1) == version

    told = tour.run("explain", "--index", str(sample["index"]), "--lang", "zh", party="compliance-2")
    assert told["permitted"]
    assert told["policy_version"] == old
    assert "产品推荐" in told["text"]
    listed = tour.run("decisions", party="compliance", group="offers")["decisions"]
    assert {entry["permitted"] for entry in listed} == {True}
    for entry in listed:  # by the index that compliance sees there
        assert tour.run("explain", "--index", str(entry["audit_index"]), party="compliance")["permitted"]
    request = tour.folder / "request.json"
    request.write_text(json.dumps({"purpose": "offer_sharing", "data_category": "offer", "channel": "phone"}))
    answer = tour.run("explain", str(request), party="compliance")
    assert not answer["permitted"]
    assert "does not say its recipient" in answer["text"]

    replayed = tour.run("replay", party="auditor")
    assert replayed["repeated"] >= 3
    assert replayed["differences"] == []
    assert tour.run("rollback", "--reason", "the app is needed", party="compliance-2")["version"] == old
    time.sleep(1)
    assert tour.in_force(0) == tour.in_force(1) == old


def test_a_partner_vetoes_and_the_history_holds_after_a_kill(tour: Tour) -> None:
    draft = tour.draft("looser", "offers.yaml", "cooling_off_days: 30", "cooling_off_days: 3")
    version = tour.run("propose", draft, "-m", "more offers", party="compliance-2")["version"]
    assert tour.run("diff", "active", version[:12], party="bank")["changes"][0]["effect"] == "looser"
    tour.run("approve", version, party="compliance")
    assert tour.run("veto", version, "--reason", "too many offers", party="bank")["state"] == "vetoed"
    assert tour.run("activate", version, party="compliance", code=3)["error"]["reason"] == "WRONG_STEP"
    tour.pair.kill(1)
    tour.pair.restart(1)
    history = tour.run("history", party="compliance-2")
    assert history["problems"] == 0
    assert "veto" in [step["kind"] for step in history["steps"]]
    assert all(step["audit_index"] >= 0 for step in history["steps"])
    assert {step["audit_index"] for step in tour.run("history", party="bank")["steps"]} == {
        None
    }  # it may not read the log
    assert tour.run("approve", version, party="marketing", code=1)["error"]["reason"] == "ROLE_NOT_ALLOWED"


def test_a_bad_folder_is_refused_before_it_leaves(tour: Tour) -> None:
    draft = tour.draft("bad", "rules.yaml", "effect: permit", "effect: allow")
    error = tour.run("propose", draft, "-m", "x", party="compliance", code=3)["error"]
    assert error["reason"] == "POLICY_INVALID"
    assert "rules.yaml:" in error["item"]
