"""An epoch that was replaced keeps its labels and nothing else, wherever the process dies on the way."""

import contextlib
from pathlib import Path

import pytest

from federation.core.errors import OverlapError, Reason
from gateway.overlap.index import StatisticsIndex
from gateway.overlap.people import TokenBatch
from tests.kits.lives import Killed, killing

STEPS = {"replace": 1, "unlink": 4}
"""A file takes the place of another; what may be left of an earlier try, the tokens and two files of counts go."""
LABELS = {"a": ["l=1", "l=2"], "b": ["l=1"]}


def index_with_deltas(folder: Path) -> StatisticsIndex:
    index = StatisticsIndex(folder)
    index.build("e", LABELS, [TokenBatch(party, "l=1", 0, [bytes([n + 1]) * 32]) for n, party in enumerate(LABELS)])
    for sequence in (1, 2, 3):
        index.apply("e", "a", sequence, [TokenBatch("a", "l=2", 0, [bytes([9 + sequence]) * 32], 2)])
    return index


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_labels_are_there_whenever_it_dies_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, at: int
) -> None:
    index = index_with_deltas(tmp_path)
    labels = index.labels("e")
    with monkeypatch.context() as patched:
        patched.setattr(Path, step, killing(Path, step, after=after, at=at))
        with pytest.raises(Killed) if at <= STEPS[step] else contextlib.nullcontext():
            index.retire("e")
    del index
    again = StatisticsIndex(tmp_path)
    assert again.labels("e") == labels
    again.retire("e")
    assert again.labels("e") == labels
    assert [path.name for path in tmp_path.glob("e*")] == ["e.duckdb"]
    with pytest.raises(OverlapError) as caught:
        again.exact("e", ("a", "b"), ())
    assert caught.value.reason is Reason.EPOCH_REPLACED
