"""Builds the kernel while pip installs the package, where there is a C compiler for a processor that could run it.

No compiler, another processor or a compiler too old for AVX-512 is no error: the package then works without the kernel,
and its log says so. An editable install puts the library beside its source; a wheel carries it and is tagged for the
platform, but for any Python, because the library knows nothing of Python.
"""

import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "federation/overlap/native"
LIBRARY = "entente_kernel.so"
COMMON_FLAGS = ("-std=c11", "-O3", "-fPIC", "-fvisibility=default", "-Wall", "-Wextra")
VECTOR_FLAGS = ("-mavx512f", "-mavx512dq", "-mavx512ifma", "-mavx512bw", "-mavx512vl")
# Scheduling before registers are given out mixes independent products: an eighth more points with GCC.
LADDER_FLAGS = (*VECTOR_FLAGS, "-fschedule-insns", "-fsched-pressure")
SOURCES = {"support.c": (), "texts.c": (), "x25519x8.c": LADDER_FLAGS, "xmd512x8.c": VECTOR_FLAGS}
COMPILE_S = 300


def compile_library(source: Path, target: Path) -> str:
    """Compiles the kernel; returns why it could not be, or "".

    Args:
        source: The folder of the C files.
        target: The library to write; replaced at once, so that a process that has it loaded keeps its own.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"the kernel is for x86-64, not {platform.machine()}"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for name, flags in SOURCES.items():
            made = str(Path(folder, name).with_suffix(".o"))
            if failure := _run([*compiler, *COMMON_FLAGS, *flags, "-c", str(source / name), "-o", made]):
                return failure
            objects.append(made)
        library = Path(folder, LIBRARY)
        if failure := _run([*compiler, "-shared", "-o", str(library), *objects]):
            return failure
        library.replace(target)
    return ""


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"no working C compiler: {exc}"
    return "" if done.returncode == 0 else f"{shlex.join(command[:1])} failed: {done.stderr[-500:]}"


class KernelHook(BuildHookInterface[Any]):
    """Hatch's build hook, for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the kernel and, for a wheel, adds it to the files and to the tag."""
        source = Path(self.root, PACKAGE)
        if version == "editable":
            failure = compile_library(source, source / LIBRARY)
            if failure:
                (source / LIBRARY).unlink(missing_ok=True)  # of an earlier install, perhaps of other sources
        else:
            self._scratch = tempfile.TemporaryDirectory()
            built = Path(self._scratch.name, LIBRARY)
            failure = compile_library(source, built)
            if not failure:
                build_data["force_include"][str(built)] = f"{PACKAGE}/{LIBRARY}"
                build_data["pure_python"] = False
                system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["tag"] = f"py3-none-{system}"
        if failure:
            self.app.display_warning(f"Entente is installed without its native kernel: {failure}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was compiled for a wheel."""
        if version != "editable":
            self._scratch.cleanup()
