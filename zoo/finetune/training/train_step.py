"""One step of training: forward and backward, in parts where memory is short, clipping, and the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.console import say
from zoo.data.datasets import Batch, rows
from zoo.data.mixup import mix
from zoo.errors import RecipeError
from zoo.finetune import distributed, fsdp
from zoo.finetune.job import Job
from zoo.finetune.memory import is_full, release
from zoo.finetune.network import Network, autocast, changing, put, to_device
from zoo.finetune.training import optimizer


class Optimisation:
    """What a step changes: the parameters that train, the optimiser's state and the learning rate.

    `micro` examples go through the network at once; it is halved when they do not fit into memory.
    """

    def __init__(self, network: Network, job: Job) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        self.job, self.recipe = job, job.recipe
        self.device = next(network.parameters()).device
        self.micro = job.micro or job.recipe.batch_size
        self.spread = fsdp.wanted()
        self.own = fsdp.spread(network, job.stages) if self.spread else network
        unused = DistributedDataParallelKwargs(
            find_unused_parameters=distributed.world() > 1
            and not self.spread
            and _leaves_some_out(self.own, job, self.device)
        )
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            device_placement=False,
            kwargs_handlers=[unused] if distributed.world() > 1 else [],
        )
        solver = optimizer.optimizer(self.own, job.recipe, job.stages)
        both: Any = (self.own, solver) if self.spread else self.accelerator.prepare(self.own, solver)
        self.network, self.solver = both
        self.recent: list[tuple[int, Tensor, Tensor]] = []
        self.norm = 0.0

    def step(self, number: int, done: int, indices: Tensor, batch: Batch) -> Tensor:
        """Take a step on a batch, or on this process's part of it; returns the loss, a scalar.

        What is random depends on the step's `number`, its rates on how many were `done` in this phase.
        """
        if self.recipe.mix != "none":
            batch = _mixed(batch, self.recipe, number)
        batch = to_device(batch, self.device)
        while True:
            torch.manual_seed(self.recipe.seed * 1_000_003 + number * distributed.world() + distributed.rank())
            try:
                loss = self._backward(batch)
                break
            except (RuntimeError, MemoryError) as error:
                self._use_less(error, batch)
        self.recent.append((number, indices, loss))
        self.norm = self._clip()
        if self.device.type == "cpu":
            self.check()
        optimizer.set_rates(self.solver, self.recipe, done)
        self.solver.step()
        self.solver.zero_grad()
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        """Add up the gradients of the batch's mean loss, part by part."""
        assert batch.targets is not None
        count = _examples(batch)
        parts = [slice(start, start + self.micro) for start in range(0, count, self.micro)]
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            piece = rows(batch, part) if len(parts) > 1 else batch
            with self._synchronised(number == len(parts) - 1):
                loss = self._loss(piece) * piece.weight
                self.accelerator.backward(loss * distributed.world())  # the processes' gradients are averaged
            total += loss.detach()
        return total

    def _loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a part of a batch, a scalar."""
        task, smoothing = self.job.task, self.recipe.label_smoothing
        assert batch.targets is not None
        with autocast(self.device, self.recipe.precision):
            outputs = self.network(batch.inputs, batch.where)
            loss = task.loss(outputs, batch.targets, smoothing)
            if batch.others is not None:
                loss = batch.own * loss + (1 - batch.own) * task.loss(outputs, batch.others, smoothing)
        return loss

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Let the processes add up their gradients at the last part of a batch only."""
        if self.spread:
            self.network.set_requires_gradient_sync(last)
            return nullcontext()
        held: AbstractContextManager[None] = self.accelerator.no_sync(self.network)
        return nullcontext() if last else held

    def _clip(self) -> float:
        """Shorten the gradient to the recipe's norm; returns its length, where it is looked at."""
        if not self.recipe.clip:
            return 0.0
        norm = nn.utils.clip_grad_norm_(self.own.parameters(), self.recipe.clip)
        return float(distributed.whole(norm)) if self.device.type == "cpu" else 0.0

    def _use_less(self, error: BaseException, batch: Batch) -> None:
        """Halve what goes through the network at once; raises what is no lack of memory, or cannot be helped."""
        if not is_full(error):
            raise error
        count = _examples(batch)
        self.micro = min(self.micro, count) // 2
        if self.micro < 1 or distributed.world() > 1:
            raise RecipeError(
                f"memory is too small for a batch of {count} examples on each process",
                fix="a smaller batch_size, max_length or backbone; or strategy='probe', which keeps no gradients",
            ) from error
        self.solver.zero_grad()
        release()
        say("memory", f"full: {self.micro} examples at once now, {count} a step as before")

    def mean(self, losses: Sequence[Tensor]) -> float:
        """Return the mean of the losses since the last measurement, over all processes."""
        self.check()
        mean = float(torch.stack(list(losses)).mean()) if losses else 0.0
        return float(sum(distributed.gathered(mean)))

    def check(self) -> None:
        """Raise RecipeError, which names the batch, if a loss since the last check, or its gradient, is not finite.

        On a GPU this waits for what was computed, so it is not done at every step; before anything is saved it is.
        """
        for number, indices, loss in self.recent:
            if not math.isfinite(loss) or not math.isfinite(self.norm):
                value = "finite, its gradient is not," if math.isfinite(loss) else f"{float(loss)}"
                names = self.job.names(indices.tolist())
                raise RecipeError(
                    f"the loss is {value} at step {number + 1}, on {names}: training has diverged",
                    fix="a smaller rate: lr=1e-4; if it is always these examples, look at them",
                )
        self.recent.clear()

    def collect(self, network: Network) -> None:
        """Give the caller's network what was learnt, if it was spread over the processes."""
        if self.spread:
            put(network, dict(changing(self.own)))

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds: weights, and the optimiser's state of each parameter by its name."""
        state = {f"network.{name}": distributed.whole(tensor.detach()) for name, tensor in changing(self.own)}
        for name, parameter in self._trained():
            for key, value in self.solver.state.get(parameter, {}).items():
                state[f"solver.{key}.{name}"] = distributed.whole(value)
        return state

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.own.named_parameters() if p.requires_grad)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        put(self.own, {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        for name, parameter in self._trained():
            held: dict[str, Any] = self.solver.state[parameter]
            for key in {k.split(".")[1] for k in tensors if k.startswith("solver.")}:
                if (value := tensors.get(f"solver.{key}.{name}")) is not None:
                    same = value.shape == parameter.shape  # moments lie in memory as their parameter does
                    held[key] = torch.empty_like(parameter) if same else value.clone()
                    distributed.copy_into(held[key], value)


def _leaves_some_out(network: Network, job: Job, device: torch.device) -> bool:
    """Tell whether this task reads some of the parameters not at all: the processes have to know."""
    batch = to_device(job.train.batch(torch.arange(min(2, len(job.train)))), device)
    assert batch.targets is not None
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    loss = job.task.loss(network(batch.inputs, batch.where), batch.targets)
    return any(grad is None for grad in torch.autograd.grad(loss, trained, allow_unused=True))


def _examples(batch: Batch) -> int:
    inputs = batch.inputs
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)


def _mixed(batch: Batch, recipe: Any, step: int) -> Batch:
    """Mix the images of a batch with each other."""
    assert isinstance(batch.inputs, Tensor)
    assert batch.targets is not None
    chance = torch.Generator().manual_seed(
        (recipe.seed * 1_000_003 + step + 1) * distributed.world() + distributed.rank()
    )
    found = mix(batch.inputs, recipe.mix, chance)
    return batch._replace(inputs=found.inputs, others=batch.targets[found.partner], own=found.share)
