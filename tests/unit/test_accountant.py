"""The partner's account: it outlives restarts, refuses before it writes, and its numbers are those of others."""

import multiprocessing
from pathlib import Path

import pytest

from federation.client.config import Limits
from federation.core.clock import FixedClock
from federation.core.database import open_database
from federation.core.errors import BudgetError, Reason
from federation.training.accountant import CustomerAccountant
from federation.training.accounting import Steps

DELTA = 1e-6
ROUND = Steps(2.0, 0.1, 10)


def open_accountant(path: Path | None, clock: FixedClock, **limits: float) -> CustomerAccountant:
    return CustomerAccountant(open_database(path), Limits(**limits), clock)


def test_account_outlives_its_process(tmp_path: Path, clock: FixedClock) -> None:
    path = tmp_path / "state.db"
    first = open_accountant(path, clock)
    spent = first.charge("run-1", "a", ROUND.event())
    again = open_accountant(path, clock)
    assert again.spent() == spent > 0
    assert again.charged("run-1") == {"a"}
    # a second round composes with the first, in a new run too, and the same name is paid twice
    assert again.charge("run-2", "a", ROUND.event()) > spent
    assert again.charge("run-2", "a", ROUND.event()) == pytest.approx(
        open_accountant(None, clock).charge("x", "y", Steps(2.0, 0.1, 30).event())
    )


def charge_and_die(path: Path) -> None:
    import os
    from datetime import UTC, datetime

    accountant = open_accountant(path, FixedClock(datetime(2026, 11, 1, tzinfo=UTC)))
    accountant.charge("run-1", "a", ROUND.event())
    os._exit(9)


def test_charge_is_on_disk_when_it_returns(tmp_path: Path, clock: FixedClock) -> None:
    path = tmp_path / "state.db"
    process = multiprocessing.get_context("fork").Process(target=charge_and_die, args=(path,))
    process.start()
    process.join(20)
    assert process.exitcode == 9
    assert open_accountant(path, clock).charged("run-1") == {"a"}


@pytest.mark.parametrize("limit", ["epsilon_per_customer", "max_epsilon_per_run"])
def test_cost_over_a_limit_is_refused_and_not_written(clock: FixedClock, limit: str) -> None:
    accountant = open_accountant(
        None, clock, **({"epsilon_per_customer": 50.0, "max_epsilon_per_run": 50.0} | {limit: 1.5})
    )
    spent = accountant.charge("run-1", "a", ROUND.event())
    with pytest.raises(BudgetError, match=limit) as caught:
        accountant.charge("run-1", "b", Steps(1.0, 0.5, 10).event())
    assert caught.value.reason == Reason.BUDGET_EXHAUSTED
    with pytest.raises(BudgetError):
        accountant.check("run-1", (Steps(1.0, 0.5, 10).event(),))
    assert accountant.spent() == spent
    assert accountant.charged("run-1") == {"a"}


def test_limit_of_a_run_counts_that_run_alone(clock: FixedClock) -> None:
    accountant = open_accountant(None, clock, max_epsilon_per_run=1.5, epsilon_per_customer=2.5)
    steps = Steps(2.0, 0.1, 20)
    accountant.charge("run-1", "a", steps.event())
    accountant.charge("run-2", "a", steps.event())
    assert accountant.spent("run-1") == accountant.spent("run-2") < accountant.spent()
    accountant.charge("run-3", "a", steps.event())
    with pytest.raises(BudgetError, match="epsilon_per_customer"):
        accountant.charge("run-4", "a", steps.event())
    assert accountant.spent() <= 2.5
