"""One training step: forward and backward over micro-batches, gradient clipping, optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.console import say
from zoo.data.datasets import Batch
from zoo.data.mixup import mix
from zoo.data.seeding import derive_seed, generator
from zoo.errors import RecipeError
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.job import Job
from zoo.finetune.network import Network, load_state, trained_tensors
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.memory import is_out_of_memory, release
from zoo.finetune.training import fsdp, gradients, optimizer


class TrainStep:
    """The state that a step changes: trained parameters, optimizer state and learning rates.

    `local` is the network whose parameters train (a sharded copy under FSDP), `network` the same as it is called
    (wrapped under DDP). `micro_batch` is the number of examples of a forward pass; out of memory halves it.
    """

    def __init__(self, network: Network, job: Job) -> None:
        self.job, self.hp = job, job.hp
        self.device = next(network.parameters()).device
        self.micro_batch = gradients.micro_batch_size(network, job.hp)
        self.sharded = fsdp.is_requested()
        self.local: Network = fsdp.shard(network) if self.sharded else network
        self.optimizer = optimizer.build(self.local, job.hp)
        self.parameters = list(self.local.parameters())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=job.hp.precision == "fp16")
        self.network: Any = self.local
        self.accelerator: Any = None
        if distributed.world_size() > 1 and not self.sharded:
            self._wrap_for_ddp()
        self.unchecked: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def _wrap_for_ddp(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        unused = DistributedDataParallelKwargs(
            find_unused_parameters=_has_unused_parameters(self.local, self.job, self.device)
        )
        self.accelerator = Accelerator(cpu=self.device.type == "cpu", device_placement=False, kwargs_handlers=[unused])
        self.network, self.optimizer = self.accelerator.prepare(self.local, self.optimizer)

    def __call__(self, number: int, in_phase: int, indices: Tensor, batch: Batch) -> Tensor:
        """Take a step on this process's shard of a batch; returns the loss, a scalar.

        Random numbers depend on the `number` of the step in the run, the learning rate on that in its phase.
        """
        batch = batch.to(self.device)
        if self.hp.mixup != "none":
            batch = _mixed(batch, self.hp, number)
        while True:
            torch.manual_seed(derive_seed(self.hp.seed, "dropout", number, distributed.rank()))
            try:
                loss = self._backward(batch)
                break
            except (RuntimeError, MemoryError) as error:
                self._halve_micro_batch(error, batch)
        self.scaler.unscale_(self.optimizer)
        self.unchecked.append((number, indices, loss, self._clip()))
        if self.device.type == "cpu":
            self.check_finite()
        optimizer.set_learning_rates(self.optimizer, self.hp, in_phase)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of the batch's mean loss in micro-batches; returns the loss, a scalar."""
        parts = gradients.micro_batches(batch, self.micro_batch)
        return gradients.backward(self.network, self.job, parts, self._gradient_sync, self.scaler.scale)

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Synchronise gradients between processes at the last micro-batch only."""
        if self.sharded:
            self.network.set_requires_gradient_sync(last)
        if last or self.accelerator is None:
            return nullcontext()
        no_sync: AbstractContextManager[None] = self.accelerator.no_sync(self.network)
        return no_sync

    def _clip(self) -> Tensor:
        """Clip the gradient; returns its norm before, a scalar on the device: reading it would wait for a GPU."""
        if not self.hp.max_grad_norm:
            return torch.zeros((), device=self.device)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.hp.max_grad_norm)
        return distributed.full_tensor(norm)

    def _halve_micro_batch(self, error: BaseException, batch: Batch) -> None:
        """Halve the micro-batch after running out of memory; raise any other error, and when it is 1 already."""
        if not is_out_of_memory(error):
            raise error
        self.micro_batch = min(self.micro_batch, batch.size) // 2
        if self.micro_batch < 1 or distributed.world_size() > 1:
            raise RecipeError(
                f"memory is too small for a batch of {batch.size} examples on each process",
                fix="a smaller batch_size, max_length or backbone; or strategy='probe', which keeps no gradients",
            ) from error
        self.optimizer.zero_grad()
        release()
        say("memory", f"out of memory: micro-batches of {self.micro_batch}, {batch.size} examples a step as before")

    def mean_loss(self, losses: Sequence[Tensor]) -> float:
        """Return the mean of some losses over all processes."""
        self.check_finite()
        mean = float(torch.stack(list(losses)).mean()) if losses else 0.0
        return float(sum(distributed.all_gather(mean)))

    def check_finite(self) -> None:
        """Raise RecipeError, naming the batch, for a loss or gradient since the last check that is not finite.

        In fp16 such a gradient halves the scale of the loss, and takes no step: that is an error below a scale of 1. On
        a GPU this waits for the device, so it runs before evaluations and checkpoints only.
        """
        if not self.unchecked:
            return
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        losses = torch.stack([torch.stack((loss, norm)) for _, _, loss, norm in self.unchecked]).tolist()  # (steps, 2)
        for (number, indices, *_), (loss, norm) in zip(self.unchecked, losses, strict=True):
            if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
                value = "finite, its gradient is not," if math.isfinite(loss) else f"{loss}"
                names = self.job.names(indices.tolist())
                raise RecipeError(
                    f"the loss is {value} at step {number + 1}, on {names}: training has diverged",
                    fix=f"{_more_range(self.hp)}a smaller learning rate: lr=1e-4; if it is always these examples, "
                    "inspect them",
                )
        self.unchecked.clear()

    def copy_to(self, network: Network) -> None:
        """Copy what a sharded network has learnt to the full network."""
        if self.sharded:
            fsdp.copy_back(self.local, network, self.device)

    def state(self) -> dict[str, Tensor]:
        """Return weights, and optimizer state by parameter name, for a checkpoint; they may be sharded."""
        tensors = {f"network.{name}": tensor.detach() for name, tensor in trained_tensors(self.local)}
        for name, parameter in self._trained_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            tensors["loss_scale"] = torch.tensor([scale["scale"], scale["_growth_tracker"]], dtype=torch.float64)
        return tensors

    def _trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.local.named_parameters() if p.requires_grad)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`."""
        weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        load_state(self.local, weights)
        if "loss_scale" in tensors:
            scale, steps = tensors["loss_scale"].tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(steps)})
        keys = {name.split(".")[1] for name in tensors if name.startswith("optimizer.")}
        for name, parameter in self._trained_parameters():
            held: dict[str, Any] = self.optimizer.state[parameter]
            for key in keys:
                if (value := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    same = value.shape == parameter.shape  # moments have the memory format of their parameter
                    held[key] = torch.empty_like(parameter) if same else value.to(parameter.device, copy=True)
                    distributed.copy_into(held[key], value)


def _more_range(hp: Hyperparameters) -> str:
    return 'precision="fp32", which has more range than fp16; or ' if hp.precision == "fp16" else ""


def _has_unused_parameters(network: Network, job: Job, device: torch.device) -> bool:
    """Return whether the loss of this task does not depend on some parameters: DDP has to know."""
    batch = job.train.batch(torch.arange(min(2, len(job.train)))).to(device)
    assert batch.targets is not None
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    loss = job.task.loss(network(batch.inputs, batch.selected), batch.targets)
    return any(grad is None for grad in torch.autograd.grad(loss, trained, allow_unused=True))


def _mixed(batch: Batch, hp: Hyperparameters, step: int) -> Batch:
    """Apply mixup or cutmix to a batch of images."""
    assert isinstance(batch.inputs, Tensor)
    assert batch.targets is not None
    mixed = mix(batch.inputs, hp.mixup, generator(hp.seed, "mixup", step, distributed.rank()))
    return batch._replace(inputs=mixed.inputs, mixed_targets=batch.targets[mixed.partner], mix_weight=mixed.share)
