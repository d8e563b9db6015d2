"""The whole story on one machine: enrol, overlap, train, share offers, withdraw, verify.

The gateway and the three agents are processes of their own, and this one plays the people: each call is made with the
certificate of the role that may make it. Every step is safe to repeat and its result is on disk before the next begins;
``play`` on an interrupted folder brings back what was killed and goes on with the step that was under way.
"""

import json
import shutil
from pathlib import Path

from federation.core.clock import SystemClock, to_text
from federation.core.errors import ConfigError, Reason
from federation.core.files import write_secret
from gateway.demo import steps
from gateway.demo.enrolling import enrol
from gateway.demo.processes import Processes
from gateway.demo.stage import PARTNERS, PROGRESS_FILE, Stage, StepFunction

REPORT_FILE = "report.html"
STEPS: tuple[tuple[str, str, StepFunction], ...] = (
    ("enrol", "Enrol three partners", enrol),
    ("overlap", "Count common customers", steps.overlap),
    ("train", "Train one model together", steps.train),
    ("offers", "Propose, decide and deliver offers", steps.offers),
    ("withdraw", "Withdraw a customer's consent", steps.withdraw),
    ("verify", "Verify the audit log, print the ledger", steps.verify),
)


def play(folder: Path, data: Path | None, *, fresh: bool = False, quiet: bool = False) -> Path:
    """Plays every step that is not done yet and returns the report's path.

    Args:
        folder: Where the demonstration lives; made if it is not there.
        data: An alliance's data; None makes a synthetic one in the folder.
        fresh: Start over even if a demonstration was interrupted.
        quiet: No progress bars or lines.

    Raises:
        ConfigError: the folder is something else, or the data is not laid out as an alliance.
        EntenteError: a step failed; playing again goes on with it.
    """
    _prepare(folder, data, fresh)
    stage = Stage(folder.absolute(), SystemClock(), quiet)
    try:
        for number, (name, title, step) in enumerate(STEPS, 1):
            stage.perform(f"{number}/{len(STEPS)} {title}", name, step)
    finally:
        stage.processes.stop()
    stage.finish()
    from gateway.demo.report import render  # noqa: PLC0415 - plots: a second to load, and only a finished story has them

    report = stage.folder / REPORT_FILE
    report.write_text(render(stage.story))
    return report


def _prepare(folder: Path, data: Path | None, fresh: bool) -> None:
    """Leaves a folder with a demonstration to go on with, or a new one."""
    if data is not None and not all((data / p / "customers.csv").is_file() for p in PARTNERS):
        fix = "It needs bank/, insurer/ and airline/, each with customers.csv, consents.csv and holdings.csv."
        raise ConfigError(Reason.MISSING_FILE, item=f"customers.csv of each partner in {data}", fix=fix)
    progress_file = folder / PROGRESS_FILE
    wanted = str(data.absolute()) if data is not None else ""
    if progress_file.exists():
        progress = json.loads(progress_file.read_text())
        if not fresh and len(progress["done"]) < len(STEPS) and progress["data"] == wanted:
            return
        Processes(folder).stop()  # ends what an earlier one left behind
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        fix = "Choose another folder with --dir."
        raise ConfigError(Reason.BAD_CONFIG, item=f"{folder} holds something that is no demonstration", fix=fix)
    folder.mkdir(parents=True, exist_ok=True)
    write_secret(progress_file, json.dumps({"done": {}, "data": wanted, "key": to_text(SystemClock().now())}).encode())
