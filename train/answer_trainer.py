"""transformers' Trainer for packed rows: loss on answers, by one process or by several together."""

from contextlib import nullcontext
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader
from transformers import Trainer

from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.train.attention import RowLayout, row_layout_of
from selfstudy_engine.train.lines import write_line
from selfstudy_engine.train.packing import PackedRow
from selfstudy_engine.train.shares import Share


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Computes the output head for answer positions only: prompts carry no loss.

    The head is a fifth of the embedded model's work, and its logits most of the memory. Its
    dataset is `Shares`.
    """

    by_sequence = False
    """Whether the model attends by the row's layout, not by a mask that it makes of positions."""
    num_parts = 1
    """A pass is computed in so many parts; doubled when memory runs out."""

    def get_train_dataloader(self) -> DataLoader[Share]:
        """Return all steps in random order, the same in each process: none skips one."""
        sampler = SeedableRandomSampler(self.train_dataset, data_seed=self.args.seed)
        return DataLoader(self.train_dataset, sampler=sampler, collate_fn=_only)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Share],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the gradients of one step; returns its loss. Both are those of all processes.

        Raises:
            TrainingError: the memory isn't enough.
        """
        del num_items_in_batch
        model.train()
        # Replicas meet once a step, not in each backward pass: one that memory fails computes its
        # share in more of them.
        with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
            loss = self._add_gradients(model, inputs["share"])
        if isinstance(model, DistributedDataParallel):
            _sum_gradients(model)
        of_all: torch.Tensor = self.accelerator.reduce(loss, "sum")
        return of_all

    def _add_gradients(self, model: torch.nn.Module, share: Share) -> torch.Tensor:
        while True:
            try:
                return self._try_gradients(model, share)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
            # Out here, as the error holds on to all that was being computed.
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            largest = max(self._parts_of(share), key=lambda part: part.num_tokens)
            if len(largest.sequences) == 1:
                raise TrainingError(
                    f"memory ran out with one sequence of {largest.longest} tokens at a time; "
                    "train on another --train-device than the server's or leave it more of this "
                    "one (--gpu-memory-utilization), or begin another --run with a lower train.rank"
                )
            if self.is_fsdp_enabled:  # the others wait for this pass
                raise TrainingError(
                    f"memory ran out with {largest.num_tokens} tokens at a time, in a model spread "
                    "over several devices; give a lower --tokens-per-device"
                )
            self.num_parts *= 2
            write_line({"event": "memory", "step": self.state.global_step, "parts": self.num_parts})

    def _parts_of(self, share: Share) -> list[PackedRow]:
        if self.num_parts == 1:
            return share.passes
        return [part for one in share.passes for part in one.split(self.num_parts)]

    def _try_gradients(self, model: torch.nn.Module, share: Share) -> torch.Tensor:
        """Each part counts by its targets, so that the sum is the whole step's mean."""
        # What is spread over processes is averaged over them as it is computed.
        factor = self.accelerator.num_processes if self.is_fsdp_enabled else 1
        loss = torch.zeros((), device=self.args.device)
        for part in self._parts_of(share):
            inputs = self._prepare_inputs(_to_tensors(part))
            with self.compute_loss_context_manager():
                of_part = self.compute_loss(model, inputs) * len(part.targets) / share.num_targets
            self.accelerator.backward(of_part * factor)
            loss += of_part.detach()
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the mean loss of a row's answers."""
        del num_items_in_batch
        layout = RowLayout(inputs["to_lines"], inputs["to_row"])
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            logits_to_keep=inputs["predicting"],
            use_cache=False,
            **({"row_layout": layout} if self.by_sequence else {}),
        )
        loss = answer_loss(outputs.logits[0], inputs["targets"], inputs["weights"])
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, PackedRow]) -> int:
        """Count nothing: it is shown nowhere."""
        del inputs
        return 0


def answer_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted cross-entropy of a row's answers.

    The sum is divided by the number of targets: by the sum of the weights, a row of light ones
    would move the model as much as any other.

    Args:
        logits: shape (targets, vocabulary).
        targets: token ids, shape (targets,).
        weights: shape (targets,).
    """
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).mean()


def _only(shares: list[Share]) -> dict[str, Share]:
    [share] = shares
    return {"share": share}


def _to_tensors(row: PackedRow) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([row.input_ids]),
        "position_ids": torch.tensor([row.position_ids]),
        "predicting": torch.tensor(row.predicting),
        "targets": torch.tensor(row.targets),
        "weights": torch.tensor(row.weights),
        **row_layout_of(row)._asdict(),
    }


def _sum_gradients(model: torch.nn.Module) -> None:
    """Add up what the processes have computed, in one message; each has all gradients."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    together = parameters_to_vector(gradients)
    torch.distributed.all_reduce(together)
    vector_to_parameters(together, gradients)
