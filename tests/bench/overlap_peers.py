"""Runs other implementations on the same sets, from a virtual environment of their own, made when first needed.

It is ``.venv-peers`` at the top of the checkout, and over a gigabyte because of what ``spu`` depends on. What cannot be
installed or run is named in ``missing``.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-peers"
SCRIPTS = Path(__file__).with_name("peers")
PACKAGES = {"openmined": "openmined-psi==2.0.6", "spu": "spu==0.9.5"}
INSTALL_S, RUN_S = 900, 1800


class Peers:
    """The peers; ``missing`` says why one was not measured."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._python = VENV / "bin" / "python"
        self._installed = {package: self._install(requirement) for package, requirement in PACKAGES.items()}

    def run_all(self, people: int) -> Iterator[tuple[str, float | None]]:
        """Each peer's name and its wall time in seconds, or None."""
        yield "openmined", self._run("openmined", "openmined", people, str(people))
        for protocol in ("ecdh", "rr22"):
            with tempfile.TemporaryDirectory() as folder:
                yield (
                    f"spu_{protocol}",
                    self._run(f"spu_{protocol}", "spu", people, protocol, str(people), folder),
                )

    def _install(self, requirement: str) -> str:
        """Why a package is not there, or ""."""
        if not self._python.exists():
            self._command([sys.executable, "-m", "venv", str(VENV)], INSTALL_S)
        name, _, version = requirement.partition("==")
        probe = f"import importlib.metadata as m; raise SystemExit(m.version({name!r}) != {version!r})"
        if not self._command([str(self._python), "-c", probe], INSTALL_S)[1]:
            return ""
        print(f"installing {requirement} into {VENV.name}", file=sys.stderr)
        return self._command([str(self._python), "-m", "pip", "install", "--quiet", requirement], INSTALL_S)[1]

    def _run(self, name: str, package: str, people: int, *arguments: str) -> float | None:
        why = self._installed[package]
        if not why:
            script = str(SCRIPTS / f"{package}_peer.py")
            out, why = self._command([str(self._python), script, *arguments], RUN_S)
            if not why:
                result = json.loads(out.splitlines()[-1])
                if result["found"] == people // 2:
                    return float(result["wall_s"])
                why = f"it found {result['found']} people, expected {people // 2}"
        self.missing[name] = why
        return None

    @staticmethod
    def _command(command: list[str], timeout_s: float) -> tuple[str, str]:
        """Output, and why the command failed or ""."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return "", str(exc)
        return done.stdout, "" if done.returncode == 0 else (done.stderr[-500:] or f"exit code {done.returncode}")
