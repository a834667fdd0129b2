#!/usr/bin/env python3
"""Print the path of the newest Python on this machine that is newer than the oldest supported one.

Searched are the PATH, pyenv's versions and what ``uv python find`` knows. Exit code 1 when there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: newest first; the oldest supported Python, 3.11, is what every other target runs on
VERSIONS = ("3.14", "3.13", "3.12")


def main() -> int:
    """Print the first interpreter that works."""
    for version in VERSIONS:
        for candidate in candidates(version):
            if works(candidate, version):
                print(candidate)
                return 0
    print(
        f"newest_python: no Python newer than 3.11 found; expected one of {', '.join(VERSIONS)}"
        " on the PATH, in pyenv or known to uv. Install one, for instance with `uv python install 3.14`.",
        file=sys.stderr,
    )
    return 1


def candidates(version: str) -> Iterator[str]:
    """Yield the places where an interpreter of a version may be."""
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted(pyenv.glob(f"versions/{version}.*"), reverse=True):
        yield str(folder / "bin" / "python")
    if uv := shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))):
        command = [uv, "python", "find", "--no-project", version]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if finished.returncode == 0:
            yield finished.stdout.strip()


def works(candidate: str, version: str) -> bool:
    """Return whether a candidate runs and has the version of its name; pyenv's shims may not."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        finished = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return False
    return finished.stdout.strip() == version


if __name__ == "__main__":
    sys.exit(main())
