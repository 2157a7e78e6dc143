"""Comparison with bitsandbytes on real weights: `uv run nox -s interop`."""
