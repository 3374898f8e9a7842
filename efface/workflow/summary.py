"""The summary of a finished run for the terminal."""

from __future__ import annotations

import json
from pathlib import Path


def summary(out: Path) -> tuple[str, bool]:
    """Text of the summary, and whether anything was released; from ``audit/audit.json``.

    If nothing was released, the last line gives the reasons.
    """
    audit = json.loads((out / "audit" / "audit.json").read_text())
    counted = audit["summary"]
    counts = ", ".join(f"{counted[s]} {s}" for s in ("pass", "review", "fail"))
    lines = [
        f"scans: {counts}",
        f"release: {out / 'release'}",
        f"audit:   {out / 'audit' / 'index.html'}",
    ]
    if not counted["released"]:
        # without any scan the reasons are those of the source files
        reasons = audit["reasons"] or {
            reason.removeprefix("withheld: "): n for reason, n in audit["files"].items()
        }
        text = ", ".join(f"{reason} ({n})" for reason, n in list(reasons.items())[:3])
        none = "" if counted["scans"] else "no MR image was found in the source: "
        lines.append(f"nothing was released: {none}{text}")
    return "\n".join(lines), bool(counted["released"])
