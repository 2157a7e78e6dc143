"""`python -m benchmarks`: answers bad input with one line and exit code 2."""

from __future__ import annotations

import sys

import typer


def run() -> int:
    """Runs the command and returns its exit code."""
    try:
        # Imported here because an impossible KQ_CPU_ISA is noticed when kq_kernels is imported.
        from benchmarks.cli import app

        return app(standalone_mode=False) or 0
    except typer.TyperException as error:
        format_message = getattr(error, "format_message", None)
        message = format_message() if format_message else str(error)
    except (ValueError, OSError, ImportError) as error:
        message = str(error)
    print("benchmarks: error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run())
