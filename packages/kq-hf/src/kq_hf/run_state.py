"""What a fine-tuning run leaves on disk: its checkpoint, and at the end its adapter."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from kq_hf.files import new_folder, replaced_file

_RECORD = "kq_finetune.json"
_SAMPLE = 4096
"""Values of a tensor that its digest reads."""


@dataclass
class RunState:
    """How far a run has come.

    Attributes:
        losses: Loss of each step done.
        seconds: Time of these steps.
        tensors: Values of the adapters' parameters by name; None before the first checkpoint.
        optimizer: State dict of the optimizer; None before the first checkpoint.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tensors: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None

    @torch.no_grad()
    def restore(self, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
        """Puts the saved values into the adapters and the optimizer, and forgets them here.

        Raises:
            ValueError: If they do not fit.
        """
        if self.tensors is None or self.optimizer is None:
            return
        parameters = _trainable(model)
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        if shapes != {name: tensor.shape for name, tensor in self.tensors.items()}:
            raise ValueError("the checkpoint's tensors are not those of the adapters")
        for name, parameter in parameters.items():
            parameter.copy_(self.tensors[name])
        optimizer.load_state_dict(self.optimizer)
        self.tensors = self.optimizer = None


@dataclass(frozen=True)
class Run:
    """A run and its files.

    Attributes:
        out: Folder of the finished adapter.
        identity: What makes two runs the same: the settings, and digests of model and text.
    """

    out: Path
    identity: dict[str, Any]

    @classmethod
    def of(cls, out: Path, settings: dict[str, Any], model: PreTrainedModel, rows: Tensor) -> Self:
        """The run with these settings.

        Args:
            out: Folder of the adapter.
            settings: JSON-serializable settings.
            model: The model before it gets adapters.
            rows: The tokens to train on.
        """
        contents = rows.cpu().contiguous().numpy().tobytes()
        return cls(
            out,
            {
                **settings,
                "model": _digest(model),
                "text": hashlib.sha256(repr(rows.shape).encode() + contents).hexdigest(),
            },
        )

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.out.with_name(f"{self.out.name}.checkpoint")

    def finished(self) -> RunState | None:
        """The end state if the run has finished; None if there is nothing yet.

        Raises:
            FileExistsError: If something else has the name of the adapter.
        """
        if not self.out.exists():
            return None
        try:
            record = json.loads((self.out / _RECORD).read_text("utf-8"))
            saved, losses, seconds = (record[key] for key in ("identity", "losses", "seconds"))
        except (OSError, ValueError, KeyError, TypeError):
            raise FileExistsError(f"{self.out} exists and is not an adapter made by kq") from None
        if changed := self._changed(saved):
            raise FileExistsError(f"{self.out} is the result of another run: {changed}")
        self.checkpoint.unlink(missing_ok=True)  # the run was killed after its last rename
        return RunState(losses, seconds)

    def resume(self) -> RunState:
        """The state of the last checkpoint, or a fresh one.

        Raises:
            ValueError: If the checkpoint is of another run or cannot be read.
        """
        if not self.checkpoint.exists():
            return RunState()
        advice = f"delete {self.checkpoint} to start over"
        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            identity = saved.pop("identity")
            state = RunState(**saved)
        except Exception as error:  # torch.load has no common class for a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"cannot read {self.checkpoint} ({reason}); {advice}") from error
        if changed := self._changed(identity):
            raise ValueError(f"{self.checkpoint} is of another run: {changed}; {advice}")
        return state

    def save(self, model: PeftModel, optimizer: torch.optim.Optimizer, state: RunState) -> None:
        """Replaces the checkpoint; a kill at any moment leaves the old one or the new one."""
        with replaced_file(self.checkpoint) as file:
            torch.save(
                {
                    "identity": self.identity,
                    "losses": state.losses,
                    "seconds": state.seconds,
                    "tensors": {
                        name: parameter.detach() for name, parameter in _trainable(model).items()
                    },
                    "optimizer": optimizer.state_dict(),
                },
                file,
            )

    def finish(self, model: PeftModel, state: RunState) -> None:
        """Writes the adapter and its record, then removes the checkpoint."""
        with new_folder(self.out) as folder:
            # No embeddings: PEFT would ask the Hub whether the vocabulary has grown.
            model.save_pretrained(str(folder), save_embedding_layers=False)
            record = {
                "identity": self.identity,
                "losses": state.losses,
                "seconds": state.seconds,
            }
            (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        self.checkpoint.unlink(missing_ok=True)

    def _changed(self, saved: dict[str, Any]) -> str:
        """How another identity differs, in words; empty if it does not."""
        names = sorted(
            name for name in {*saved, *self.identity} if saved.get(name) != self.identity.get(name)
        )
        words = []
        for name in names:
            if name in ("model", "text"):
                words.append(f"another {name}")
            else:
                words.append(f"{name} {saved.get(name)!r} instead of {self.identity.get(name)!r}")
        return ", ".join(words)


def _digest(model: PreTrainedModel) -> str:
    """Of the config and of the first values of every stored tensor: tells checkpoints apart."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sample = tensor.detach().flatten()[:_SAMPLE].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _trainable(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
