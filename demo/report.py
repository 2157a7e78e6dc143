"""The demo's table and plot."""

from pathlib import Path
from typing import Any

from rich.table import Table

from kq_cli.reporting import results, size


def summary(report: dict[str, Any]) -> None:
    """Prints what the demo has measured, side by side."""
    dense, nf4, adapted = report["dense"], report["nf4"], report["adapted"]
    table = Table(title="SmolLM2-135M-Instruct", caption=report["caption"], title_justify="left")
    for column in ("", "float32", "NF4", "NF4 + LoRA"):
        table.add_column(column)
    coverage = [model["size"]["coverage"] for model in (dense, nf4)]
    adapter_bytes = 4 * report["training"]["trainable_parameters"]
    memory = [counts["bytes_after"] for counts in coverage]
    table.add_row("size on disk", *(size(m["size"]["file_bytes"]) for m in (dense, nf4)), "")
    table.add_row("weights in memory", *map(size, memory), size(memory[1] + adapter_bytes))
    weights = coverage[1]["quantized_bytes_before"], coverage[1]["quantized_bytes_after"]
    table.add_row("  of them in linear layers", *map(size, weights), "")
    bits = coverage[1]["bits_per_weight"]
    table.add_row("  bits per linear weight", "32", f"{bits:.3f}", "")
    rows = [model["perplexity"] for model in (dense, nf4, adapted)]
    table.add_row("held-out perplexity", *(f"{row['perplexity']:.2f}" for row in rows))
    reading = [f"{row['tokens'] / row['seconds']:.0f}" for row in rows]
    table.add_row("tokens per second, reading", *reading)
    writing = [f"{model['answer']['tokens_per_second']:.1f}" for model in (dense, nf4)]
    table.add_row("tokens per second, writing", *writing, "")
    results.print(table)
    for name, text in (
        (f"{report['question']} (float32)", dense["answer"]["text"]),
        (f"{report['question']} (NF4)", nf4["answer"]["text"]),
        (f"{report['prompt']} ... (NF4, before fine-tuning)", nf4["text"]),
        (f"{report['prompt']} ... (NF4, after fine-tuning)", adapted["text"]),
    ):
        results.print(name, style="bold", markup=False)
        results.print(text.strip(), markup=False)
    results.print(f"{report['seconds']:.0f} seconds after the downloads")


def loss_plot(losses: list[float], file: Path) -> None:
    """Draws the loss of each training step and its running mean."""
    import matplotlib as mpl

    mpl.use("Agg")  # draws without a display
    from matplotlib import pyplot as plt

    window = 10
    means = [
        sum(losses[max(0, end - window) : end]) / min(end, window)
        for end in range(1, len(losses) + 1)
    ]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color="0.7", label="each step")
    axes.plot(steps, means, label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="LoRA on NF4 with AdamW8bit")
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
