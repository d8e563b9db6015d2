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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federation.core.clock import SystemClock
from federation.training.features import MARKETING_V1
from gateway.demo.record import Story
from gateway.demo.stage import Stage
from gateway.demo.story import STEPS
from gateway.demo.synthetic import make_alliance
from tests.kits.command import entente

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


def model_on_shelf(played: Played, party: str) -> Path:
    """The folder of the model in use at a partner."""
    shelf = played.folder / party / "state" / "models"
    return shelf / str(json.loads((shelf / "in-use.json").read_text())["weights_sha256"])


def run_entente(*arguments: str) -> dict[str, Any]:
    done = entente(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("party", PARTNERS)
def test_every_partner_has_the_model_in_use_and_anybody_can_verify_it(played: Played, party: str) -> None:
    ca = played.folder / "alliance" / "ca" / "ca.pem"
    said = run_entente("model", "verify", str(model_on_shelf(played, party)), "--ca", str(ca))
    assert "/gateway/" in said["signed_by"]
    assert played.story.training is not None
    assert said["run_id"] == played.story.training.run_id
    judged = json.loads((model_on_shelf(played, party) / "card.json").read_text())["card"]["judged"]
    low, high = judged["everyone"]["rows"][1:]
    trained = sum(partner.trained for partner in played.story.partners)
    assert low - (high - low) < trained < high + (high - low)  # within six standard deviations


def test_a_partner_scores_its_customers_with_reasons_and_without_the_gateway(played: Played, tmp_path: Path) -> None:
    folder, out = played.folder / "bank", tmp_path / "scores.csv"
    model = str(model_on_shelf(played, "bank"))
    said = run_entente("score", "--model", model, "--config", str(folder), "--out", str(out))
    scores = pd.read_csv(out)
    assert 0 < len(scores) == said["scored"] < said["customers"]
    assert said["scored"] + sum(said["not_scored"].values()) == said["customers"]
    assert set(scores["decile"]) == set(range(1, 11))
    assert scores["reason_1"].str.contains("raises the score|lowers the score").mean() > 0.9


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


class Marketing:
    """Somebody at joint marketing with a shell; the gateway and the agents of the demonstration are up again."""

    def __init__(self, folder: Path) -> None:
        self.people = folder / "alliance" / "people"

    def run(self, *arguments: str, role: str = "marketing") -> "subprocess.CompletedProcess[str]":
        return entente(*arguments, "--json", "--config", str(self.people / role))

    def ask(self, *arguments: str, role: str = "marketing") -> dict[str, Any]:
        done = self.run(*arguments, role=role)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def error(self, *arguments: str, role: str = "marketing") -> tuple[int, dict[str, Any]]:
        done = self.run(*arguments, role=role)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stderr)["error"]


@pytest.fixture(scope="module")
def marketing(played: Played) -> Iterator[Marketing]:
    stage = Stage(played.folder.absolute(), SystemClock(), quiet=True)
    try:
        stage.ensure_running()
        yield Marketing(played.folder)
    finally:
        stage.processes.stop()


def test_what_was_released_is_given_again_and_read_off_for_nothing(played: Played, marketing: Marketing) -> None:
    assert played.story.venn is not None
    assert played.story.links is not None
    assert all(cube["released"] for cube in marketing.ask("overlap", "cubes")["cubes"])
    venn = marketing.ask("overlap", "query", "venn")
    assert not venn["spent_now"]
    shown = {region.members: region.count for region in played.story.venn.regions}
    assert {tuple(cell["members"]): cell["count"] or 0 for cell in venn["cells"]} == {
        members: count.count for members, count in shown.items()
    }
    part = marketing.ask("overlap", "query", "--partners", "airline,bank")
    assert (part["read_from"], part["spent_now"]) == ("venn", False)
    assert marketing.ask("overlap", "query", "--partners", "airline,bank", "--dry-run")["read_from"] == "venn"
    links = marketing.ask("overlap", "links")
    assert (len(links["links"]), links["candidates"]) == (len(played.story.links.links), 9)
    assert not links["spent_now"]


def test_a_question_of_ones_own_is_previewed_paid_for_once_and_kept(marketing: Marketing, tmp_path: Path) -> None:
    question = ("--partners", "insurer,airline", "--by", "insurer.life_stage")
    before = marketing.ask("budget", "show", role="compliance")
    seen = marketing.ask("overlap", "query", *question, "--dry-run")
    assert (seen["fits"], seen["epsilon"], seen["read_from"]) == (True, 0.1, "")
    assert marketing.ask("budget", "show", role="compliance") == before
    files = {kind: tmp_path / f"a.{kind}" for kind in ("csv", "parquet", "png")}
    wanted = ("--csv", str(files["csv"]), "--parquet", str(files["parquet"]), "--plot", str(files["png"]))
    first = marketing.ask("overlap", "query", *question, *wanted)
    assert all(path.stat().st_size > 100 for path in files.values())
    again = marketing.ask("overlap", "query", *question, "--epsilon", "0.2")
    assert (first["spent_now"], again["spent_now"]) == (True, False)
    assert first["cells"] == again["cells"]
    after = marketing.ask("budget", "show", role="compliance")
    assert after["scopes"][0]["epsilon_spent"] == pytest.approx(seen["scopes"][0]["epsilon_after"])
    [entry] = [entry for entry in after["entries"] if entry not in before["entries"] and "question" in entry["what"]]
    assert entry["what"].startswith("question insurer and airline by insurer.life_stage, epoch ")


def test_a_wrong_question_is_told_what_is_there_instead(marketing: Marketing) -> None:
    code, error = marketing.error("overlap", "query", "--partners", "bank", "--by", "bank.tier")
    assert (code, error["reason"]) == (3, "QUESTION_MISFIT")
    assert 'unknown column "bank.tier"; known: bank.holds_gold_card, bank.value_tier' in error["item"]
    code, error = marketing.error("overlap", "query", "ven")
    assert (code, error["reason"]) == (3, "UNKNOWN_CUBE")
    assert error["item"] == 'unknown cube "ven"; known: holdings, tier_by_activity, venn'
    code, error = marketing.error("overlap", "links", "venn")
    assert (code, error["reason"]) == (3, "QUESTION_MISFIT")
    code, error = marketing.error(
        "overlap", "query", "--partners", "bank,insurer", "--by", "bank.value_tier", "--epsilon", "1"
    )
    assert (code, error["reason"]) == (1, "POLICY_DENIED")
    code, error = marketing.error("overlap", "query", "venn", role="compliance")
    assert (code, error["reason"]) == (1, "ROLE_NOT_ALLOWED")
