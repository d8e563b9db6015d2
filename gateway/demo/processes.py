"""The demonstration's processes: one gateway, one agent a partner, each its own operating system process.

``ensure`` starts what is not running, so a process that was killed between two steps comes back. Process ids are in
``run/<name>.pid`` and logs in ``logs/<name>.log``. Processes that an earlier, killed demonstration left behind are
ended first: two gateways on one state would be a fault of ours.
"""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from federation.core.errors import EntenteError, Reason, TransportError

START_S = 30.0
STOP_S = 10.0
ENTENTE = (sys.executable, "-c", "from gateway.cli import main; main()")


class Processes:
    """Starts, watches and ends processes below a folder."""

    def __init__(self, folder: Path) -> None:
        self._pids, self._logs = folder / "run", folder / "logs"
        self._folder = folder.absolute()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._peak_mib: dict[str, float] = {}
        for path in (self._pids, self._logs):
            path.mkdir(parents=True, exist_ok=True)
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        """Ends processes of an earlier run of this folder, known by their pid files and their command lines."""
        for file in self._pids.glob("*.pid"):
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                process = psutil.Process(int(file.read_text()))
                if str(self._folder) in " ".join(process.cmdline()):  # a pid may be another program's by now
                    process.kill()
                    process.wait(STOP_S)
            file.unlink()

    def ensure(self, name: str, command: Sequence[str], ready: Callable[[], bool]) -> bool:
        """Starts a process if it does not run and waits until it is ready; returns whether it had to.

        Raises:
            TransportError: UNAVAILABLE when it ends or is not ready in time; the item names its log.
        """
        process = self._running.get(name)
        if process is not None and process.poll() is None:
            return False
        log = self._logs / f"{name}.log"
        with log.open("ab") as sink:
            started = subprocess.Popen([*ENTENTE, *command], stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        self._running[name] = started
        (self._pids / f"{name}.pid").write_text(str(started.pid))
        deadline = time.monotonic() + START_S
        while not ready():
            if started.poll() is not None or time.monotonic() > deadline:
                raise TransportError(Reason.UNAVAILABLE, item=f"process {name}", fix=f"See its log: {log}")
            time.sleep(0.05)
        return True

    def measure(self) -> dict[str, float]:
        """The largest memory of each process so far, in MiB; "commands" are the short ones, "story" is this one."""
        for name, process in self._running.items():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                self._peak_mib[name] = max(self._peak_mib.get(name, 0.0), _peak_mib(process.pid))
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return {**self._peak_mib, "commands": children, "story": _peak_mib(psutil.Process().pid)}

    def stop(self) -> None:
        """Ends all, first politely."""
        for process in self._running.values():
            process.terminate()
        for name, process in self._running.items():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            (self._pids / f"{name}.pid").unlink(missing_ok=True)


def _peak_mib(pid: int) -> float:
    """The high-water mark of resident memory; where the system does not tell, what it is now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def run_command(*command: str, timeout_s: float = 120) -> dict[str, Any]:
    """Runs one ``entente`` command as its own process and returns its JSON. Raises EntenteError as the command did."""
    done = subprocess.run(
        [*ENTENTE, *command, "--json"], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise _error_of(done.stderr, command[:2])
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def _error_of(stderr: str, command: Sequence[str]) -> EntenteError:
    """The error that a command printed as JSON on its last line."""
    try:
        error = json.loads(stderr.strip().splitlines()[-1])["error"]
        reason = Reason(error["reason"])
    except (ValueError, KeyError, IndexError, TypeError):
        return EntenteError(Reason.INTERNAL, item=" ".join(command), detail=stderr[-500:])
    return EntenteError(reason, item=error["item"], detail=error["detail"], fix=error["fix"])
