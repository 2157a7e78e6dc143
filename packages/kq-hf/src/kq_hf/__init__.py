"""kq for Hugging Face: 4-bit and int8 models in transformers, PEFT and the Trainer.

Importing this package registers the quantization method "kq" with transformers, so that
`from_pretrained` can quantize a model while it loads and can open models quantized before.
Import it before calling `from_pretrained`: transformers has no discovery of its own.
"""

from importlib.metadata import version

from kq_hf.bitsandbytes_int8 import adopt_config
from kq_hf.checkpoint import quantize_checkpoint
from kq_hf.config import KqConfig
from kq_hf.export import export_bitsandbytes
from kq_hf.finetune import FinetuneResult, Finetuning, finetune
from kq_hf.inspection import CheckpointReport, inspect_checkpoint
from kq_hf.outliers import LayerOutliers, outlier_columns, outliers
from kq_hf.perplexity import Perplexity, perplexity
from kq_hf.quantizer import KqQuantizer, coverage
from kq_hf.training import OPTIMIZERS, optimizer_cls_and_kwargs, prepare_for_training

__all__ = [
    "OPTIMIZERS",
    "CheckpointReport",
    "FinetuneResult",
    "Finetuning",
    "KqConfig",
    "KqQuantizer",
    "LayerOutliers",
    "Perplexity",
    "__version__",
    "adopt_config",
    "coverage",
    "export_bitsandbytes",
    "finetune",
    "inspect_checkpoint",
    "optimizer_cls_and_kwargs",
    "outlier_columns",
    "outliers",
    "perplexity",
    "prepare_for_training",
    "quantize_checkpoint",
]

__version__ = version("kq-hf")
