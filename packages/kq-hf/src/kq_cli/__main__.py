"""`python -m kq_cli` is the command `kq`."""

from kq_cli.app import main

main()
