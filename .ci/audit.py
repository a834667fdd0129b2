#!/usr/bin/env python3
"""Check the pinned dependencies against PyPI's list of known vulnerabilities.

Exit codes: 0 if there are none, 1 if there are some or not all pins could be checked, and 3 if no list is reachable (an
index without one, or no network), so that nothing was checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PINS = (ROOT / "requirements" / "demo.txt", ROOT / "requirements" / "dev.txt")
#: a pin that is always present, to find out whether the index has the list
PROBE = "certifi"


def main() -> int:
    """Check one pin first, so that an index without the list does not get hundreds of requests."""
    pins = sorted({line for path in PINS for line in path.read_text().splitlines() if line.strip()})
    if not any("vulns" in found for found in audit([pin for pin in pins if pin.startswith(f"{PROBE}==")])):
        print("audit: no list of vulnerabilities is reachable; nothing was checked")
        return 3
    found = audit(pins)
    unchecked = [f"{each['name']}: {each['skip_reason']}" for each in found if "skip_reason" in each]
    vulnerable = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions'])}"
        for each in found
        for vulnerability in each.get("vulns", ())
    ]
    for line in (*unchecked, *vulnerable):
        print("audit:", line)
    print(f"audit: {len(found)} pins, {len(unchecked)} not checked, {len(vulnerable)} vulnerabilities")
    return 1 if unchecked or vulnerable or not found else 0


def audit(pins: list[str]) -> list[dict[str, Any]]:
    """Return what pip-audit reports about some pins; nothing if it fails."""
    tool = (ROOT / "requirements" / "audit.txt").read_text().strip()
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "pins.txt"
        requirements.write_text("\n".join(pins))
        command = [Path(sys.executable).with_name("uv"), "tool", "run", "--quiet", tool, "--disable-pip", "--no-deps"]
        command += ["--progress-spinner", "off", "--format", "json", "--requirement", requirements]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        return json.loads(finished.stdout)["dependencies"]
    except (ValueError, KeyError):
        print("audit: pip-audit failed:", *finished.stderr.splitlines()[-1:])
        return []


if __name__ == "__main__":
    sys.exit(main())
