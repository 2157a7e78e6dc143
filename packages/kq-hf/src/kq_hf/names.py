"""Names of modules in models with and without a head."""

from collections.abc import Collection


def own_name(prefix: str, stored: str, present: Collection[str]) -> str:
    """The name in a model of a module of a checkpoint, where one of them has no head.

    Args:
        prefix: Of the modules below the head (`PreTrainedModel.base_model_prefix`).
        stored: The name in the checkpoint.
        present: Names in the model.

    Returns:
        One of `present`, or `stored` as it is if none fits.
    """
    candidates = (stored, stored.removeprefix(f"{prefix}."), f"{prefix}.{stored}")
    return next((name for name in candidates if name in present), stored)
