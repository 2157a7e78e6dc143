"""Records of outliers as a JSON file, from `kq outliers` to `kq quantize`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kq_hf.outliers import LayerOutliers


def to_dict(layers: Sequence[LayerOutliers], threshold: float) -> dict[str, Any]:
    """The figures as JSON-serializable values, of features with outliers alone.

    Args:
        layers: What `kq_hf.outliers` returns.
        threshold: From which an element was an outlier.
    """
    return {"threshold": threshold, "layers": [_layer_to_dict(layer) for layer in layers]}


def _layer_to_dict(layer: LayerOutliers) -> dict[str, Any]:
    return {
        "name": layer.name,
        "features": layer.counts.numel(),
        "tokens": layer.tokens,
        "outliers": [
            {
                "feature": feature,
                "tokens": int(layer.counts[feature]),
                "largest": float(layer.largest[feature]),
            }
            for feature in layer.features
        ],
    }


def read_outliers(file: Path) -> list[LayerOutliers]:
    """Records from a file: of features without outliers, the largest magnitude is 0.

    Args:
        file: What `kq outliers --json` has written.

    Raises:
        ValueError: If it is something else.
        OSError: If it cannot be read.
    """
    try:
        return [_from_dict(layer) for layer in json.loads(file.read_text("utf-8"))["layers"]]
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{file} is not what `kq outliers --json` writes: {error!r}") from error


def _from_dict(stored: dict[str, Any]) -> LayerOutliers:
    counts = torch.zeros(stored["features"], dtype=torch.int64)
    largest = torch.zeros(stored["features"])
    for outlier in stored["outliers"]:
        feature = outlier["feature"]
        if not 0 <= feature < len(counts):
            raise ValueError(f"feature {feature} of {len(counts)}")
        counts[feature], largest[feature] = outlier["tokens"], outlier["largest"]
    return LayerOutliers(str(stored["name"]), int(stored["tokens"]), counts, largest)
