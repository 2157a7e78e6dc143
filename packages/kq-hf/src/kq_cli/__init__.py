"""The command `kq`.

A package of its own, beside kq_hf, because importing kq_hf imports torch and transformers, which
takes seconds: `kq --help` and messages about wrong arguments should not wait for that. Each
command imports what it needs when it runs.
"""

from kq_cli.app import main

__all__ = ["main"]
