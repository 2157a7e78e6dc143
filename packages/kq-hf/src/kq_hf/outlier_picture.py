"""The outlier features of a model as a picture: layers × features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kq_hf.files import replaced_file
from kq_hf.outliers import LayerOutliers

FORMATS = (".png", ".svg", ".pdf")
_COLUMNS = 3


def check_picture(file: Path) -> None:
    """Raises unless a picture can be written to a file of this name.

    Raises:
        ValueError: If the name does not end in one of `FORMATS`, or is that of a folder.
        ImportError: If matplotlib is not installed.
    """
    if file.suffix not in FORMATS or file.is_dir():
        raise ValueError(f"a picture must be a file in {', '.join(FORMATS)}, got {file}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'kq-hf[plot]'") from error


def draw_outliers(layers: Sequence[LayerOutliers], threshold: float, file: Path) -> None:
    """Draws one panel for each kind of layer; its dots are the features that hold outliers.

    The colour of a dot is the share of tokens for which the feature reaches the threshold. The
    file gets its name when it is complete.

    Args:
        layers: What `kq_hf.outliers` returned.
        threshold: What it was given.
        file: The picture.

    Raises:
        ValueError, ImportError: As `check_picture`.
    """
    check_picture(file)
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds: dict[str, list[LayerOutliers]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, []).append(layer)
    lines = -(-len(kinds) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 0.8 + 3 * lines), layout="constrained")
    figure.suptitle(f"Input features that reach {threshold:g}")
    panels = figure.subplots(lines, min(_COLUMNS, len(kinds)), squeeze=False).flat
    scale = LogNorm(1 / max(layer.tokens for layer in layers), 1)
    dots: Any = None
    for (kind, members), panel in zip(kinds.items(), panels, strict=False):
        points = [
            (feature, index, int(layer.counts[feature]) / layer.tokens)
            for index, layer in enumerate(members)
            for feature in layer.features
        ]
        x, y, shares = zip(*points, strict=True) if points else ((), (), ())
        dots = panel.scatter(x, y, c=shares, s=6, norm=scale, cmap="viridis_r")
        panel.set(
            title=f"{kind}, {len(points)} features",
            xlim=(-1, max(layer.counts.numel() for layer in members)),
            ylim=(len(members) - 0.5, -0.5),
            xlabel="input feature",
            ylabel="layer",
        )
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels:  # what is left of the last line
        panel.set_visible(False)
    figure.colorbar(dots, ax=figure.axes, label="share of tokens")
    with replaced_file(file) as unfinished:
        figure.savefig(unfinished, format=file.suffix[1:], dpi=120)
