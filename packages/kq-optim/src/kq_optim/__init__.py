"""Optimizers for PyTorch whose state takes 8 bits a value, and the same with 32-bit state."""

from importlib.metadata import version

from kq_optim.embeddings import keep_embeddings_32bit
from kq_optim.families.adagrad import (
    Adagrad,
    Adagrad8bit,
    Adagrad32bit,
    PagedAdagrad,
    PagedAdagrad8bit,
    PagedAdagrad32bit,
)
from kq_optim.families.adam import (
    Adam,
    Adam8bit,
    Adam32bit,
    AdamW,
    AdamW8bit,
    AdamW32bit,
    PagedAdam,
    PagedAdam8bit,
    PagedAdam32bit,
    PagedAdamW,
    PagedAdamW8bit,
    PagedAdamW32bit,
)
from kq_optim.families.ademamix import (
    AdEMAMix,
    AdEMAMix8bit,
    AdEMAMix32bit,
    PagedAdEMAMix,
    PagedAdEMAMix8bit,
    PagedAdEMAMix32bit,
)
from kq_optim.families.lamb import (
    LAMB,
    LAMB8bit,
    LAMB32bit,
    PagedLAMB,
    PagedLAMB8bit,
    PagedLAMB32bit,
)
from kq_optim.families.lars import (
    LARS,
    LARS8bit,
    LARS32bit,
    PagedLARS,
    PagedLARS8bit,
    PagedLARS32bit,
)
from kq_optim.families.lion import (
    Lion,
    Lion8bit,
    Lion32bit,
    PagedLion,
    PagedLion8bit,
    PagedLion32bit,
)
from kq_optim.families.rmsprop import (
    PagedRMSprop,
    PagedRMSprop8bit,
    PagedRMSprop32bit,
    RMSprop,
    RMSprop8bit,
    RMSprop32bit,
)
from kq_optim.families.sgd import (
    SGD,
    PagedSGD,
    PagedSGD8bit,
    PagedSGD32bit,
    SGD8bit,
    SGD32bit,
)
from kq_optim.interop import export_bitsandbytes, import_bitsandbytes
from kq_optim.optimizer import Optimizer
from kq_optim.saving import load_checkpoint, save_checkpoint

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "AdEMAMix8bit",
    "AdEMAMix32bit",
    "Adagrad",
    "Adagrad8bit",
    "Adagrad32bit",
    "Adam",
    "Adam8bit",
    "Adam32bit",
    "AdamW",
    "AdamW8bit",
    "AdamW32bit",
    "LAMB8bit",
    "LAMB32bit",
    "LARS8bit",
    "LARS32bit",
    "Lion",
    "Lion8bit",
    "Lion32bit",
    "Optimizer",
    "PagedAdEMAMix",
    "PagedAdEMAMix8bit",
    "PagedAdEMAMix32bit",
    "PagedAdagrad",
    "PagedAdagrad8bit",
    "PagedAdagrad32bit",
    "PagedAdam",
    "PagedAdam8bit",
    "PagedAdam32bit",
    "PagedAdamW",
    "PagedAdamW8bit",
    "PagedAdamW32bit",
    "PagedLAMB",
    "PagedLAMB8bit",
    "PagedLAMB32bit",
    "PagedLARS",
    "PagedLARS8bit",
    "PagedLARS32bit",
    "PagedLion",
    "PagedLion8bit",
    "PagedLion32bit",
    "PagedRMSprop",
    "PagedRMSprop8bit",
    "PagedRMSprop32bit",
    "PagedSGD",
    "PagedSGD8bit",
    "PagedSGD32bit",
    "RMSprop",
    "RMSprop8bit",
    "RMSprop32bit",
    "SGD8bit",
    "SGD32bit",
    "__version__",
    "export_bitsandbytes",
    "import_bitsandbytes",
    "keep_embeddings_32bit",
    "load_checkpoint",
    "save_checkpoint",
]

__version__ = version("kq-optim")
