"""Runs benchmarks one after another and merges their last lines: ``python tests/bench/run.py overlap questions``.

Each benchmark prints a table and, as its last line, one JSON object; so does this. One that fails fails the run.
"""

import json
import subprocess
import sys
from pathlib import Path


def run(name: str) -> dict[str, object]:
    """Runs one benchmark, passes its table through, and returns its figures."""
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if lines:
                print(lines[-1], end="", flush=True)
            lines.append(line)
    if process.returncode or not lines:
        sys.exit(process.returncode or 1)
    figures: dict[str, object] = json.loads(lines[-1])
    return figures


def main() -> None:
    merged: dict[str, object] = {}
    for name in sys.argv[1:]:
        merged |= run(name)
    merged.pop("bench", None)
    print(json.dumps(merged))


if __name__ == "__main__":
    main()
