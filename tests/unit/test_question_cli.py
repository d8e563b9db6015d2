"""What a reader of an answer gets: text, JSON, CSV, Parquet, plots; and errors before anything is asked."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from federation.cli import console, questions
from federation.cli.export import check_targets, rows, to_json, write_csv, write_parquet, write_plot
from federation.cli.overlap import app
from federation.core.errors import ConfigError, Reason
from federation.plots.answers import by_region, cross_table
from federation.plots.svg import VARIABLES
from federation.plots.values import Count, CrossCell, CrossTable, Noise
from federation.policy.specs import CubeSpec
from federation.v1 import overlap_pb2 as pb
from tests.kits.questions import Asking, Exact, person

CUBE = CubeSpec(
    name="cross", partners=("bank", "airline"), by=("bank.tier", "airline.activity"), epsilon=0.5, min_count=10
)


@pytest.fixture
def answer() -> pb.QueryCubeResponse:
    people = [person(bank="high", airline="active")] * 40 + [person(bank="basic")] * 25
    return Asking(people, CUBE, noise=Exact()).cube("cross")


def test_every_file_holds_the_same_numbers(answer: pb.QueryCubeResponse, tmp_path: Path) -> None:
    write_csv(answer, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(answer.cells) == len(to_json(answer)["cells"])
    both = [row for row in read if row["people"] == "40"]
    assert [(row["at_bank"], row["bank.tier"], row["airline.activity"]) for row in both] == [("True", "high", "active")]
    assert {row["people"] for row in read if row["suppressed"] == "True"} == {""}
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(answer, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == rows(answer)
    about = table.schema.metadata
    assert (about[b"epsilon"], about[b"cube"], about[b"spent_now"]) == (b"0.5", b"cross", b"true")
    answer.where["bank.tier"] = "high"
    write_parquet(answer, tmp_path / "a.parquet")
    assert json.loads(parquet.read_schema(tmp_path / "a.parquet").metadata[b"where"]) == {"bank.tier": "high"}


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plots_are_files_without_the_pages_colours(answer: pb.QueryCubeResponse, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    write_plot(answer, tmp_path / f"a.{ending}")
    written = (tmp_path / f"a.{ending}").read_bytes()
    assert written[:5] in (b"<?xml", b"\x89PNG\r")
    assert not any(colour.encode() in written for colour in VARIABLES)  # of hatching and the paper behind it too


@pytest.mark.parametrize(
    ("partners", "by"),
    [
        (("bank", "airline"), ("bank.tier",)),
        (("bank", "insurer", "airline"), ("bank.tier", "airline.activity")),
        (("bank", "insurer", "airline"), ("bank.tier", "bank.holds_gold")),
        (("bank", "insurer", "airline"), ("bank.holds_gold", "insurer.holds_home", "airline.activity")),
    ],
)
def test_a_heat_map_shows_every_labelled_cell_once(partners: tuple[str, ...], by: tuple[str, ...]) -> None:
    people = [person(bank="high", airline="active")] * 40 + [person(bank="basic", insurer="family")] * 25
    cube = CubeSpec(name="shown", partners=partners, by=by, epsilon=0.5, min_count=0)
    answer = Asking(people, cube, noise=Exact()).cube("shown")
    table = cross_table(answer, *by) if len(by) > 1 else by_region(answer, by[0])
    places = [(cell.row, cell.column) for cell in table.cells]
    assert len(places) == len(set(places))
    labelled = [cell for cell in answer.cells if set(by) <= set(cell.labels) or len(by) == 1]
    assert sorted(cell.count.count for cell in table.cells) == sorted(cell.count for cell in labelled)
    assert {row for row, _ in places} == set(table.row_values)


def test_a_picture_says_which_release_it_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    desk = Asking([person(bank="high", airline="active")] * 40, CUBE, noise=Exact())
    for answer in (desk.cube("cross"), desk.ask("bank", "insurer", epsilon=0.2, where={"bank.tier": "high"})):
        write_plot(answer, tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        assert f"{answer.cube}, epoch e1, epsilon {answer.epsilon:g}" in text
        assert ("only where bank.tier is high" in text) == bool(answer.where)
        assert ("customers of bank and airline" in text) == (answer.cube == "cross")  # and of no single one's alone


def test_a_heat_map_shows_intervals_and_no_bound_for_what_is_withheld(
    answer: pb.QueryCubeResponse, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    write_plot(answer, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    [shown] = [cell for cell in answer.cells if cell.labels.get("airline.activity") and not cell.suppressed]
    assert f">{shown.low:,} to {shown.high:,}</text>" in text
    assert ">not shown</text>" in text  # the noisy number is under the threshold; the true one may be over it
    assert "&lt; 10" not in text


@pytest.mark.parametrize("values", [1, 6])
def test_the_titles_of_a_heat_map_are_within_the_picture(values: int) -> None:
    tables, svg = pytest.importorskip("federation.plots.tables"), pytest.importorskip("federation.plots.svg")
    names = tuple(f"value-{number}" for number in range(values))
    count, noise = Count(1_234_567, 1_234_000, 1_235_000), Noise(0.5, 1e-6, 8.0, "discrete_gaussian", 20)
    cells = tuple(CrossCell("yes, yes", name, count) for name in names)
    row_name = "bank.holds_gold_card, insurer.holds_home, airline.holds_miles_card"
    figure = tables.heat_map(CrossTable(row_name, "airline.activity_of_the_year", ("yes, yes",), names, cells, noise))
    with svg.mpl.rc_context(svg.STYLE):
        figure.draw_without_rendering()
        box, (axes,) = figure.get_tightbbox(), figure.axes
    assert min(box.x0, box.y0) >= 0
    assert (box.x1, box.y1) <= tuple(figure.get_size_inches())
    drawn = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for at, a in enumerate(drawn) for b in drawn[:at])


def test_text_says_what_was_read_and_why_something_is_missing(
    answer: pb.QueryCubeResponse, capsys: pytest.CaptureFixture[str]
) -> None:
    questions.show(answer)
    text = capsys.readouterr().out
    assert "under the policy's threshold of 10 people" in text
    assert "95% interval" in text
    assert "cross: bank, airline; epoch e1, matched by email" in text


def shown(answer: pb.QueryCubeResponse) -> str:
    with console.out.capture() as captured:
        questions.show(answer)
    return captured.get()


def test_a_table_has_no_column_for_labels_that_nobody_has(answer: pb.QueryCubeResponse) -> None:
    assert "label" in shown(answer).partition("at all of")[2].splitlines()[0]
    venn = CubeSpec(name="venn", partners=("bank", "airline"), epsilon=0.5, min_count=10)
    text = shown(Asking([person(bank="high")] * 40, venn, noise=Exact()).cube("venn"))
    assert "label" not in text.partition("at all of")[2].splitlines()[0]


def test_withheld_cells_of_unknown_labels_are_one_line(answer: pb.QueryCubeResponse) -> None:
    before = shown(answer)
    for value in ("unknown", "high", "basic"):
        labels = {"bank.tier": value, "airline.activity": "unknown"}
        answer.cells.add(members=["bank", "airline"], labels=labels, suppressed=True, reason="under the threshold")
    after = shown(answer)
    assert len(after.splitlines()) == len(before.splitlines()) + 1
    assert "and 3 with a label that is unknown, all suppressed" in after
    answer.cells[-1].suppressed, answer.cells[-1].count = False, 12_345
    assert "12,345" in shown(answer)


def test_a_stored_answer_says_that_later_changes_are_not_in_it_whether_there_are_any_or_not(
    answer: pb.QueryCubeResponse,
) -> None:
    assert "later" not in shown(answer)
    answer.spent_now = False
    assert "UTC, without what changed later; nothing spent" in shown(answer)


def test_a_narrow_terminal_loses_no_letter(answer: pb.QueryCubeResponse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 60)
    with console.out.capture() as captured:
        questions.show(answer)
    assert "…" not in captured.get()
    assert "airline.activity".replace(".", "") in "".join(captured.get().split()).replace(".", "")


def test_a_wrong_target_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_targets(tmp_path / "a.pdf", None)
    assert caught.value.reason is Reason.BAD_FIELD
    with pytest.raises(ConfigError) as caught:
        check_targets(None, None, tmp_path / "nowhere" / "a.csv")
    assert caught.value.reason is Reason.MISSING_FILE
    with pytest.raises(ConfigError, match="is a folder"):
        check_targets(None, None, tmp_path)


@pytest.mark.parametrize("as_json", [False, True])
def test_files_that_were_written_are_named_beside_the_answer(
    answer: pb.QueryCubeResponse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    answers(monkeypatch, "QueryCube", answer)
    file = tmp_path / "a.csv"
    done = CliRunner().invoke(
        app, ["query", "cross", "--csv", str(file), "--config", "none", *["--json"] * as_json], catch_exceptions=False
    )
    assert file.exists()
    if as_json:
        assert (json.loads(done.stdout)["cube"], done.stderr) == ("cross", "")
    else:
        assert done.stderr == f"Written: {file}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["venn", "--partners", "bank"],
        ["venn", "--dry-run"],
        ["venn", "--by", "bank.tier"],
        ["--partners", "bank", "--dry-run", "--csv", "a.csv"],
    ],
)
def test_a_question_is_a_cube_or_its_own(arguments: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["query", *arguments, "--config", str(tmp_path)]).exit_code == 2


def answers(monkeypatch: pytest.MonkeyPatch, method: str, message: object) -> None:
    """The gateway answers this to one method."""

    @contextmanager
    def connect(_config: Path) -> Iterator[Any]:
        yield SimpleNamespace(overlap=SimpleNamespace(**{method: lambda _request, timeout: message}))

    monkeypatch.setattr(questions, "connect", connect)


def dry_run(monkeypatch: pytest.MonkeyPatch, seen: pb.PreviewTableResponse, *more: str) -> Any:
    """A dry run to which the gateway answers this."""
    answers(monkeypatch, "PreviewTable", seen)
    arguments = ["query", "--partners", "bank,airline", "--dry-run", "--config", "none", *more]
    with console.out.capture() as captured:
        result = CliRunner().invoke(app, arguments)
    return SimpleNamespace(exit_code=result.exit_code, text=captured.get(), json=result.stdout)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_dry_run_over_the_budget_ends_as_the_question_would(monkeypatch: pytest.MonkeyPatch, more: Any) -> None:
    seen = pb.PreviewTableResponse(epoch="e1", epsilon=0.5, sigma=8.0, expected_error=16.0, cells=3, fits=True)
    assert dry_run(monkeypatch, seen, *more).exit_code == 0
    seen.fits = False
    ended = dry_run(monkeypatch, seen, *more)
    assert ended.exit_code == 1
    assert "The budget does not allow it" in ended.text or '"fits": false' in ended.json


@pytest.mark.parametrize(("error", "warned"), [(199.0, False), (1_453_548.0, True)])
@pytest.mark.parametrize("read_from", ["", "venn"])
def test_a_dry_run_warns_of_an_answer_of_noise(
    monkeypatch: pytest.MonkeyPatch, error: float, warned: bool, read_from: str
) -> None:
    seen = pb.PreviewTableResponse(epoch="e1", expected_error=error, min_count=20, fits=True, read_from=read_from)
    text = dry_run(monkeypatch, seen).text
    assert (f"Fewer than {error:,.0f} people cannot be told from none" in text) == warned
    assert ("A larger --epsilon" in text) == (warned and not read_from)


def test_ids_and_numbers_stay_whole_in_a_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 70)
    shown = console.table("Runs", "run", "what is said of it", "interval", right=["interval"])
    shown.add_row("run-7cca7f55609204a7", "[bold]many words[/] that may go on in the next line " * 2, "3,591 to 3,627")
    with console.out.capture() as captured:
        console.out.print(shown)
    assert "run-7cca7f55609204a7" in captured.get()
    assert "3,591 to 3,627" in captured.get()
    assert all(len(line) <= 70 for line in captured.get().splitlines())
