"""What every driver of the store of released tables promises."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from federation.core.database import open_database
from federation.overlap.questions import Question, Sum
from gateway.overlap.answers import KEPT_EPOCHS, Answer, SqlAnswerStore

Reopen = Callable[[], Engine]


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    if request.param == "file":
        return lambda: open_database(tmp_path / "answers.db")
    engine = open_database(None)
    return lambda: engine


def answer(count: int, question: Question | None = None) -> Answer:
    asked = question or Question(("a", "b"), ("a.tier",))
    cells = ((("a", "b"), (("a.tier", "high"),)), (("b",), ()))
    return Answer(
        asked, cells, (count, -3), (count, 0), "email", 1.0, 1e-6, 4.5, 1.0, "v1", "2026-11-01T00:00:00+00:00"
    )


def test_the_first_answer_is_the_only_one(reopen: Reopen) -> None:
    store = SqlAnswerStore(reopen())
    assert store.get("venn", "e1", "s") is None
    assert store.put("venn", "e1", "s", lambda _: answer(1)) == (answer(1), True)
    assert store.put("venn", "e1", "s", lambda _: answer(2)) == (answer(1), False)
    store = SqlAnswerStore(reopen())
    assert store.get("venn", "e1", "s") == answer(1)
    assert store.put("venn", "e2", "s", lambda _: answer(3)) == (answer(3), True)
    assert store.put("venn", "e1", "t", lambda _: answer(4)) == (answer(4), True)


def test_the_order_of_release_is_kept_and_shown_to_the_next(reopen: Reopen) -> None:
    store, seen = SqlAnswerStore(reopen()), []

    def make(count: int) -> Callable[[object], Answer]:
        def made(before: object) -> Answer:
            seen.append([one.name for one in before])  # type: ignore[attr-defined]
            return answer(count)

        return made

    for count, name in enumerate(["z", "a", "m"]):
        store.put(name, "e1", "s", make(count))
    store.put("other", "e2", "s", make(9))
    assert seen == [[], ["z"], ["z", "a"], []]
    released = SqlAnswerStore(reopen()).released("e1")
    assert [(one.name, one.answer.noisy[0]) for one in released] == [("z", 0), ("a", 1), ("m", 2)]


def test_old_epochs_are_answered_and_do_not_stay_in_memory(reopen: Reopen) -> None:
    store, epochs = SqlAnswerStore(reopen()), [f"e{number}" for number in range(3 * KEPT_EPOCHS)]
    for number, epoch in enumerate(epochs):
        store.put("venn", epoch, "s", lambda _, count=number: answer(count))
    for _ in range(2):
        assert [store.get("venn", epoch, "s") for epoch in epochs] == [answer(number) for number in range(len(epochs))]
    assert len(store._known) == KEPT_EPOCHS


def test_a_table_that_could_not_be_made_leaves_no_trace(reopen: Reopen) -> None:
    store = SqlAnswerStore(reopen())

    def broken(_before: object) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put("venn", "e1", "s", broken)
    assert store.released("e1") == []
    assert store.put("venn", "e1", "s", lambda _: answer(5))[1]


def test_every_part_of_a_question_survives(reopen: Reopen) -> None:
    measure = Sum("b.value", (("high", 900), ("low", 10)), 1000, "EUR")
    question = Question(("b", "a"), ("a.tier",), (("b.kind", "new"),), measure)
    SqlAnswerStore(reopen()).put("sum", "e1", "s", lambda _: answer(1, question))
    assert SqlAnswerStore(reopen()).get("sum", "e1", "s") == answer(1, question)
