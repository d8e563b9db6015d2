"""Plots and the short view of a model card: drawn from what the card has, and from nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.cli.model_card import print_card, spark
from federation.plots.models import card_figures, draw_card
from federation.training.judged import read_judged
from federation.training.judging import Grouping, Judging, quantile_edges
from federation.training.measures import measure_group, measure_scores

JUDGING = Judging((Grouping("region", ("CN", "EEA")), Grouping.banded("age", (30.0, 45.0))), bins=10, rounds=2)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    """A card with every measure."""
    rng = np.random.default_rng(6)
    scores = 1 / (1 + np.exp(-rng.normal(-2, 1, 9_000)))
    labels = (rng.random(9_000) < scores).astype(np.float64)
    edges = quantile_edges(scores, 10)
    counts = np.zeros(JUDGING.width)
    for table in JUDGING.split(counts):
        cells = np.searchsorted(edges, scores, side="right") * 2 + labels.astype(int)
        table[1] += np.bincount(cells, minlength=20).reshape(10, 2)
    judged = read_judged(JUDGING, counts + rng.normal(0, 15, counts.size), 15.0, edges, scores)
    best = scores > np.quantile(scores, 0.9)
    by = {"age": [{"group": "30 to 45", **(measure_group(scores, labels, best) or {})}]}
    about = {name: name for name in ("model", "purpose", "label", "trust", "trained_at", "policy_version")}
    numbers = ("epsilon_per_person", "epsilon_per_customer", "delta", "collusion", "rounds", "attempts")
    return {
        **about,
        **dict.fromkeys((*numbers, "noise_multiplier"), 1.5),
        "run_id": "run-1",
        "partners": ["bank", "insurer", "airline"],
        "features": ["age"],
        "rows": judged["everyone"]["rows"],
        "metrics": {**measure_scores(scores, labels), "by": by},
        "judged": judged,
        "loss_by_round": [[number, 0.4 - 0.001 * number] for number in range(1, 41)],
        "limits": ["It has limits."],
    }


@pytest.fixture(scope="module")
def drawn(card: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_card(card, tmp_path_factory.mktemp("card"))


def test_every_plot_is_drawn_as_a_file(card: dict[str, Any], drawn: list[Path], tmp_path: Path) -> None:
    for paths in (drawn, draw_card(card, tmp_path / "plots", ".svg")):
        assert [path.stem for path in paths] == ["roc", "lift", "calibration", "groups", "loss"]
        assert all(path.stat().st_size > 5_000 for path in paths)
    text = (tmp_path / "plots" / "groups.svg").read_text()
    assert "age: 30 to 45" in text
    assert "too few for the noise" in text
    assert "region: unknown" not in text


def test_plots_are_the_same_for_the_same_card(card: dict[str, Any], drawn: list[Path], tmp_path: Path) -> None:
    assert [path.read_bytes() for path in drawn] == [path.read_bytes() for path in draw_card(card, tmp_path)]


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (("metrics", "loss_by_round"), ["calibration", "groups"]),
        (("judged",), ["roc", "lift", "calibration", "groups", "loss"]),
        (("metrics", "judged", "loss_by_round"), []),
    ],
)
def test_what_a_card_has_not_is_not_drawn(card: dict[str, Any], missing: tuple[str, ...], left: list[str]) -> None:
    assert list(card_figures({**card, **dict.fromkeys(missing)})) == left


@pytest.mark.parametrize("missing", [(), ("metrics",), ("judged", "rows"), ("metrics", "judged", "rows")])
def test_short_view_says_what_it_cost_and_how_good_it_is(
    card: dict[str, Any], missing: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    print_card({**card, **dict.fromkeys(missing)}, version=3)
    said = capsys.readouterr().out
    assert "version 3" in said
    assert "epsilon per person" in said
    assert "It has limits." in said
    assert ("ROC" in said) == ("metrics" not in missing)
    assert ("region: EEA" in said) == ("judged" not in missing)
    assert json.dumps(card)


def test_bars_follow_the_values() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert spark([3, 3, 3]) == "▁▁▁"
    assert spark([0.5], 0, 1) == "▅"
