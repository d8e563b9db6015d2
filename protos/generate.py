"""Generates federation/v1 from protos/, or with --check proves that the committed stubs are what it would generate.

Run as ``python protos/generate.py [--check]``; needs the ``dev`` extra. The output is deterministic for the pinned
grpcio-tools and mypy-protobuf.
"""

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "federation" / "v1"


def generate(out: Path) -> None:
    """Writes the Python stubs and their types below ``out``/federation/v1."""
    sources = sorted(str(path) for path in (ROOT / "protos" / "federation" / "v1").glob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, f"--mypy_grpc_out={out}"]
    # The mypy plugins are scripts beside this interpreter; the environment need not be activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run([*command, *sources], check=True, env={**os.environ, "PATH": path})
    (out / "federation" / "v1" / "__init__.py").write_text('"""Generated from protos/ by protos/generate.py."""\n')


def main() -> int:
    if "--check" not in sys.argv[1:]:
        TARGET.mkdir(parents=True, exist_ok=True)
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "federation" / "v1"
        names = sorted({p.name for p in fresh.iterdir()} | {p.name for p in TARGET.iterdir() if p.is_file()})
        stale = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
        wrong = stale[1] + stale[2]
    if wrong:
        print(f"federation/v1 differs from protos/: {', '.join(wrong)}. Run: make proto", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
