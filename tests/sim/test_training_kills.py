"""Every process is killed at random moments of a run: it ends in the same model or a clear refusal, and all is paid."""

import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from federation.policy.specs import TrainingSpec
from federation.privacy.composition import epsilon_of
from federation.training.plan import read_plan
from gateway.training.runs import FAILED, FINISHED, RunRecord
from tests.kits.exact import without_noise
from tests.kits.kill import GATEWAY, World
from tests.kits.training import DELTA, PARTNERS, SPEC, SUMMED

SPECS = {
    "summed": SUMMED.model_copy(update={"rounds": 4, "spare_attempts": 2}),
    "local": SPEC.model_copy(update={"rounds": 4}),
}
PROCESSES = (GATEWAY, *PARTNERS)
SEEDS = range(50)


@pytest.fixture(autouse=True, scope="module")
def exact() -> Iterator[None]:
    with without_noise():
        yield


@cache
def undisturbed(mode: str) -> tuple[bytes, dict[str, int]]:
    """The model of a run in which nobody dies, and how many steps each process takes."""
    with TemporaryDirectory() as folder:
        world = World(Path(folder), SPECS[mode], {})
        assert world.play().state == FINISHED
        return world.runs.model().weights, {name: life.steps for name, life in world.lives.items()}


def check_books(world: World, record: RunRecord, spec: TrainingSpec) -> None:
    """Nobody's account holds less than what left."""
    plan, left = read_plan(record.proposal), world.released
    assert all(len(replies) == 1 for replies in left.replies.values())  # one answer to a question, ever
    assert all(len(vectors) == 1 for vectors in left.vectors_of_key.values())  # and one vector under a key
    paid = [what for what in world.paid() if record.run_id in what]
    assert len(paid) == len(set(paid))
    if not left.replies:
        return
    assert f"run {record.run_id}" in paid
    retries = len(paid) - 1
    attempts = len(left.attempts) if spec.trust == "secure_sum" else len(left.rounds)
    assert attempts <= plan.rounds + retries
    assert epsilon_of([plan.person_event(plan.rounds + retries)], DELTA) <= plan.epsilon
    for party in PARTNERS:
        answered = len([name for name in left.replies if name[0] == party])
        with world.look_into(party) as accountant:
            spent = accountant.spent()
        assert spent >= epsilon_of(plan.customer_events(answered), DELTA) - 1e-9 if answered else spent >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_a_random_moment(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    mode = "local" if seed % 10 >= 7 else "summed"
    model, steps = undisturbed(mode)
    victim = PROCESSES[seed % len(PROCESSES)]
    kills = {victim: [int(rng.integers(1, steps[victim] + 1))]}
    if seed % 3 == 2:  # and once more on the way back, or somebody else
        other = PROCESSES[int(rng.integers(len(PROCESSES)))]
        kills.setdefault(other, []).append(int(rng.integers(1, steps[other] + 1)))
    world = World(tmp_path, SPECS[mode], kills)
    record = world.play()
    check_books(world, record, SPECS[mode])
    if mode == "local" and sum(map(len, kills.values())) > 1 and record.state == FAILED:
        # Without a secure sum there is no spare attempt: who answered a round that the gateway forgot, refuses another.
        assert record.reason.endswith(": PROPOSAL_REFUSED"), record.reason
        return
    assert record.state == FINISHED, record.reason  # at most two deaths, and two spare attempts
    assert world.runs.model().weights == model
    assert world.paid("released") == [f"run {record.run_id}"]  # whenever it died, nobody saw a model that is not marked


def test_a_registry_of_before_the_model_makes_no_second_model_for_the_price_of_the_first(tmp_path: Path) -> None:
    world, backup = World(tmp_path, SPECS["summed"], {}), tmp_path / "backup.db"

    def back_up() -> None:
        if [record.rounds_done for record in world.runs.all()] == [3] and not backup.exists():
            with sqlite3.connect(tmp_path / "training.db") as db, sqlite3.connect(backup) as copy:
                db.backup(copy)

    world.hook = back_up
    finished = world.play()
    assert finished.state == FINISHED
    sums, paid = len(world.released.attempts), world.paid()
    world.restore_registry(backup)
    again = world.play()
    assert (again.run_id, again.rounds_done, again.state) == (finished.run_id, 3, FAILED)
    assert again.reason.startswith("ANSWER_LOST: run ")
    assert (len(world.released.attempts), world.paid()) == (sums, paid)


def test_death_in_a_round_without_a_spare_attempt_is_a_clear_refusal(tmp_path: Path) -> None:
    spec = SPECS["summed"].model_copy(update={"spare_attempts": 0})
    reasons = []
    for at in range(180, 260, 10):
        world = World(tmp_path / str(at), spec, {GATEWAY: [at]})
        record = world.play()
        check_books(world, record, spec)
        reasons.append(record.reason)
        if record.state == FAILED:
            assert f"round {record.rounds_done + 1}: interrupted, and no spare attempt" in record.reason
            assert world.approvals("bank").waiting() == []
    assert any(reasons)
    assert not all(reasons)  # between two rounds nothing is lost
