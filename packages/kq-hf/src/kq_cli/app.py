"""The list of commands, and what is common to all of them."""

import typer

from kq_cli.doctor import doctor
from kq_cli.export import export
from kq_cli.finetune import finetune
from kq_cli.generate import generate
from kq_cli.inspect import inspect
from kq_cli.outliers import outliers
from kq_cli.perplexity import perplexity
from kq_cli.quantize import quantize
from kq_cli.reporting import OneLineErrors, one_line_warnings

app = typer.Typer(
    name="kq",
    cls=OneLineErrors,
    help="Language models in 4 and 8 bits: quantize, measure, fine-tune, generate.",
    add_completion=False,
)
for command in (quantize, inspect, perplexity, outliers, finetune, generate, export, doctor):
    app.command()(command)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    one_line_warnings()
    app(prog_name="kq")
