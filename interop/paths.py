"""Where models are kept and findings go."""

from __future__ import annotations

from pathlib import Path

BUILD = Path(__file__).parent.parent / "build"
CACHE = BUILD / "cache"
REPORT = BUILD / "interop" / "report.json"
