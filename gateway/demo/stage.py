"""What the steps of the demonstration share: folders, processes, connections of people, and the record so far.

A step's result is on disk before the step counts as done; a step that was cut off is played again from its start.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from federation.cli.console import connect, err, out
from federation.client.connection import Connection
from federation.core.clock import Clock, to_text
from federation.core.errors import EntenteError, Reason
from federation.core.files import write_secret
from federation.v1 import common_pb2, enrolment_pb2
from gateway.config import load_gateway_config
from gateway.demo.processes import Processes
from gateway.demo.record import Process, Step, Story

PARTNERS = ("bank", "insurer", "airline")
PROGRESS_FILE, STORY_FILE = "progress.json", "story.json"
SYNTHETIC_NOTE = "Synthetic: customers, attributes and labels were generated for this demonstration."
GIVEN_NOTE = "Data given by whoever ran the demonstration."
CONNECT_S = 60.0


class Stage:
    """What the steps share: folders, processes, connections of people, and the record so far."""

    def __init__(self, folder: Path, clock: Clock, quiet: bool) -> None:
        self.folder, self.clock, self.quiet = folder, clock, quiet
        self.alliance = folder / "alliance"
        self._progress: dict[str, Any] = json.loads((folder / PROGRESS_FILE).read_text())
        self.key = str(self._progress["key"])
        self.data = Path(self._progress["data"]) if self._progress["data"] else folder / "data"
        self.processes = Processes(folder)
        story_file = folder / STORY_FILE
        self.story = Story.from_json(story_file.read_text()) if story_file.exists() else self._begin()
        self._bar: Callable[[str, float, float], None] = lambda _text, _done, _total: None

    def _begin(self) -> Story:
        synthetic = not self._progress["data"]
        note = SYNTHETIC_NOTE if synthetic else GIVEN_NOTE
        return Story(alliance="", synthetic=synthetic, data_note=note, made_at=to_text(self.clock.now()))

    def partner(self, party: str) -> Path:
        """The folder of a partner's agent."""
        return self.folder / party

    def person(self, role: str) -> Path:
        """The folder of a person's identity."""
        return self.alliance / "people" / role

    @contextmanager
    def calling_as(self, role: str) -> Iterator[Connection]:
        """A connection with a person's certificate."""
        with connect(self.person(role)) as connection:
            yield connection

    def show(self, text: str, done: float, total: float) -> None:
        """Moves the bar of the step under way."""
        self._bar(text, done, total)

    def watch(self, progress: common_pb2.Progress) -> None:
        """Moves the bar as a stream of the gateway says."""
        if progress.stage:
            self._bar(progress.text or progress.stage, progress.done, progress.total)

    def perform(self, heading: str, name: str, step: "StepFunction") -> None:
        """Plays a step unless it is done; keeps its result before it says so."""
        if name in self._progress["done"]:
            self._say(heading, f"{self._progress['done'][name]} [dim](done before)[/]")
            return
        started = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True, disable=self.quiet or not err.is_terminal) as bars:
            task = bars.add_task(heading, total=None)

            def move(text: str, done: float, total: float) -> None:
                bars.update(task, description=f"{heading}: {text}", completed=done, total=total or None)

            self._bar = move
            if (self.alliance / "ca").exists() and self.story.partners:
                self.ensure_running()
            self.story, line = step(self)
        took = Step(name, round(time.monotonic() - started, 2))
        peaks = {process.name: process.peak_mib for process in self.story.processes}
        for process, mib in self.processes.measure().items():
            peaks[process] = round(max(mib, peaks.get(process, 0.0)), 1)
        processes = tuple(Process(n, mib) for n, mib in sorted(peaks.items()))
        self.story = replace(self.story, steps=(*self.story.steps, took), processes=processes)
        write_secret(self.folder / STORY_FILE, self.story.to_json().encode())
        self._progress["done"][name] = line
        write_secret(self.folder / PROGRESS_FILE, json.dumps(self._progress).encode())
        self._say(heading, f"{line} [dim]({took.seconds:.1f} s)[/]")

    def _say(self, heading: str, line: str) -> None:
        if not self.quiet:
            out.print(f"[bold]{heading}[/]")
            out.print(f"    {line}")

    def finish(self) -> None:
        """Says how long it took and how large it got."""
        largest = max(self.story.processes, key=lambda process: process.peak_mib)
        seconds = sum(step.seconds for step in self.story.steps)
        if not self.quiet:
            out.print(f"[dim]{seconds:.0f} s in all; largest process: {largest.name}, {largest.peak_mib:.0f} MiB[/]")

    def remember(self, name: str, value: str) -> str:
        """Keeps a choice (such as the name of the epoch) so that a repeated step makes the same one."""
        kept: str = self._progress.setdefault("chosen", {}).setdefault(name, value)
        write_secret(self.folder / PROGRESS_FILE, json.dumps(self._progress).encode())
        return kept

    def ensure_gateway(self) -> None:
        """Starts the gateway where it does not run."""
        gateway = self.alliance / "gateway"
        address = load_gateway_config(gateway).listen
        self.processes.ensure("gateway", ("gateway", "serve", "--config", str(gateway)), lambda: _listens(address))

    def ensure_running(self) -> None:
        """Starts the gateway and the agents where they do not run, and waits until all are connected."""
        self.ensure_gateway()
        for party in PARTNERS:
            command = ("partner", "run", "--config", str(self.partner(party)))
            self.processes.ensure(party, command, lambda: True)
        deadline = time.monotonic() + CONNECT_S
        while set(self._connected()) != set(PARTNERS):
            if time.monotonic() > deadline:
                logs = f"See the logs in {self.folder / 'logs'}"
                raise EntenteError(Reason.PARTNER_UNAVAILABLE, item="an agent of the demonstration", fix=logs)
            time.sleep(0.1)

    def _connected(self) -> list[str]:
        try:
            with self.calling_as("operator") as connection:
                return list(connection.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest(), timeout=5).connected_partners)
        except EntenteError:
            return []


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


StepFunction = Callable[[Stage], tuple[Story, str]]
"""Plays one step: the record with the step's result in it, and a plain line for the person who watches."""
