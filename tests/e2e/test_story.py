"""The whole demonstration with real processes and real TLS: killed between its steps, and listened to.

One story is played by this module: after every step everything is killed (the demonstration, the gateway, the agents;
-9, no warning) and the demonstration is started again. Every byte that an agent sent was kept, before encryption, and
is searched at the end for what must not be in it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.core.clock import SystemClock
from federation.training.features import MARKETING_V1
from gateway.demo.record import Story
from gateway.demo.story import STEPS
from gateway.demo.synthetic import make_alliance

ENTENTE = (sys.executable, "-c", "from gateway.cli import main; main()")
PARTNERS = ("bank", "insurer", "airline")
STEP_S = 120.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class Played:
    """A finished demonstration, its data, and what the agents sent."""

    def __init__(self, folder: Path, data: Path, tap: Path, starts: int) -> None:
        self.folder, self.data, self.tap, self.starts = folder, data, tap, starts
        self.story = Story.from_json((folder / "story.json").read_text())


def done_steps(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "progress.json").read_text())["done"])
    except FileNotFoundError:
        return []


def kill_all(demo: "subprocess.Popen[str]", folder: Path) -> None:
    """The demonstration first, so that it cannot bring the others back."""
    demo.kill()
    demo.communicate()
    for file in (folder / "run").glob("*.pid"):
        try:
            os.kill(int(file.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    base = tmp_path_factory.mktemp("story")
    folder, data, tap = base / "demo", base / "data", base / "tap"
    make_alliance(data, people=6_000, today=SystemClock().now())
    command = [*ENTENTE, "demo", "--data", str(data), "--dir", str(folder), "--json"]
    environment = {**os.environ, "ENTENTE_EGRESS_TAP": str(tap)}
    names, starts = [name for name, _, _ in STEPS], 0
    while True:
        with (base / "demo.err").open("ab") as errors:
            demo = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        starts += 1
        before, deadline = done_steps(folder), time.monotonic() + STEP_S
        while done_steps(folder) == before and demo.poll() is None:
            if time.monotonic() > deadline:
                kill_all(demo, folder)
                pytest.fail(f"no step in {STEP_S} s after {before}")
            time.sleep(0.02)
        if len(done_steps(folder)) == len(names):
            out, _ = demo.communicate(timeout=60)
            assert demo.returncode == 0, (base / "demo.err").read_text()[-2000:]
            assert json.loads(out)["report"].endswith("report.html")
            return Played(folder, data, tap, starts)
        assert demo.poll() is None, (base / "demo.err").read_text()[-2000:]
        kill_all(demo, folder)


def test_the_story_goes_on_after_everything_was_killed_between_any_two_steps(played: Played) -> None:
    assert played.starts >= len(STEPS) - 1
    assert [step.name for step in played.story.steps] == [name for name, _, _ in STEPS]
    assert played.story.audit is not None
    assert played.story.audit.verified


def test_each_thing_was_paid_for_once_although_everything_was_killed(played: Played) -> None:
    assert played.story.budget is not None
    paid = [entry.what for entry in played.story.budget.entries]
    assert len(paid) == len(set(paid))
    assert {what.split()[0] for what in paid} == {"cube", "run"}
    assert all(scope.spent <= scope.limit for scope in played.story.budget.scopes)


def test_the_released_regions_are_near_the_truth(played: Played) -> None:
    assert played.story.venn is not None
    truth = json.loads((played.data / "truth.json").read_text())["email"]["exclusive_regions"]
    for region in played.story.venn.regions:
        exact = truth["+".join(p for p in PARTNERS if p in region.members)]
        if not region.count.suppressed:
            assert abs(region.count.count - exact) < 8 * played.story.venn.noise.sigma  # fails once in 10^14 runs


def test_the_joint_model_ranks_better_than_chance_and_says_what_it_cost(played: Played) -> None:
    training = played.story.training
    assert training is not None
    assert training.joint.auc > 0.6
    assert 0 < training.epsilon_per_customer <= training.epsilon_per_person


def test_offers_were_permitted_refused_with_reasons_and_taken_back(played: Played) -> None:
    offers, withdrawal = played.story.offers, played.story.withdrawal
    assert offers is not None
    assert withdrawal is not None
    assert offers.permitted > 0
    assert offers.refused > 0
    codes = {reason.code for example in offers.examples for reason in example.reasons}
    assert {"not_at_recipient", "consent_withdrawn", "consent_expired", "no_transfer_mechanism"} <= codes
    assert withdrawal.removed >= 1
    assert withdrawal.queued_after == withdrawal.queued_before - withdrawal.removed


def test_the_report_needs_no_network(played: Played) -> None:
    page = (played.folder / "report.html").read_text()
    assert "://" not in page
    assert "<script" not in page


def test_no_process_grew_over_its_limit(played: Played) -> None:
    assert {"gateway", *PARTNERS} <= {process.name for process in played.story.processes}
    assert max(process.peak_mib for process in played.story.processes) < 1536


def sent_by(played: Played, party: str) -> bytes:
    messages = [path.read_bytes() for path in sorted((played.tap / party).glob("*.bin"))]
    assert sum(map(len, messages)) > 100_000  # the tap did hear the batches
    return b"\0\0".join(messages)


@pytest.mark.parametrize("party", PARTNERS)
def test_no_identifier_left_a_partner_in_any_spelling(played: Played, party: str) -> None:
    customers = pd.read_csv(played.data / party / "customers.csv", dtype=str, keep_default_na=False)
    sent = sent_by(played, party)
    words = re.findall(rb"[\x20-\x7e]{6,}", sent)  # what a person could read
    text = b"\n".join(words).decode().casefold()
    mails = {mail.strip().casefold() for mail in customers["email"] if mail.strip()}
    assert not re.search(r"person\s*\d+", text)
    assert not [mail for mail in re.findall(r"[\w.+-]+@[\w.-]+", text) if mail in mails or "example" in mail]
    assert not set(re.findall(r"[bia]\d{8}", text)) & {key.casefold() for key in customers["customer_id"]}
    phones = {re.sub(r"\D", "", phone).removeprefix("00") for phone in customers["phone"] if phone}
    seen = {re.sub(r"\D", "", run) for run in re.findall(r"[\d+][\d\s().-]{8,}\d", text)}
    national = {phone.removeprefix("1") for phone in phones}
    assert not {run.removeprefix("00").removeprefix("1") for run in seen} & national
    for mail in list(mails)[:500]:  # and in no spelling inside what is not readable
        assert mail.encode() not in sent
        assert mail.partition("@")[0].encode() not in sent.lower()


@pytest.mark.parametrize("party", PARTNERS)
def test_no_feature_row_left_a_partner(played: Played, party: str) -> None:
    customers = pd.read_csv(played.data / party / "customers.csv")
    features = [feature.name for feature in MARKETING_V1.features]
    sent = sent_by(played, party)
    encoded = MARKETING_V1.encode(customers.head(300), features)
    for kind in (np.float32, np.float64, np.uint8):
        for row in np.unique(encoded, axis=0):
            assert row.astype(kind).tobytes() not in sent
    for row in customers.head(300).itertuples():
        values = [str(getattr(row, name)) for name in ("age", "job", "marital", "education", "balance")]
        for separator in (",", ";", "\t", '","', " "):
            assert separator.join(values).encode() not in sent
