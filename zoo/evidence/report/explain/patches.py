"""Top activating patches: where in the user's own pictures some channels of each stage respond most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.image_batches import Images, normalise
from zoo.evidence.report.explain import items, stages
from zoo.evidence.report.explain.explanation import Channel, Patch
from zoo.evidence.report.explain.filters import first_convolution
from zoo.evidence.report.facts import Part
from zoo.finetune.features.stage_outputs import StageOutput, catch
from zoo.finetune.freezing import eval_mode
from zoo.finetune.inference import BATCH_SIZE
from zoo.finetune.runtime.workers import parallel
from zoo.plugin import Backbone

STAGES, CHANNELS, PATCHES = 6, 3, 5
"""Stages, channels of each, and pictures of each channel that are shown, at most."""
SMALLEST = 14
"""A patch is at least this fraction of the picture wide, so that one sees what it is of."""
MASS = 0.9
"""Share of the gradient that the square of the effective receptive field holds."""
ALIKE = 0.7
"""Correlation over the pictures from which two channels count as alike; one of them is shown."""
PREFIX = 16
"""Tokens before the patches of an image (class token, registers), at most."""


@dataclass(frozen=True, slots=True)
class Strongest:
    """The strongest response of each channel in each picture, (N, C), and its place, (N, C), in a map of h x w."""

    value: Tensor
    place: Tensor
    size: tuple[int, int]


def top_patches(backbone: Backbone, part: Part, rows: Sequence[int]) -> tuple[Channel, ...] | str:
    """Return channels of up to six stages with the patches of these examples to which they respond most.

    Of a stage those channels whose strongest response differs most between the classes (or varies most, where examples
    have no class), and that are not alike.
    """
    outputs = stages.outputs_by_stage(backbone)
    if not outputs:
        return "no stage of the backbone has outputs with places in the picture"
    outputs = {number: outputs[number] for number in stages.evenly(list(outputs), STAGES)}
    found = _strongest(backbone, outputs, part, rows)
    if not found:
        return "the places of the outputs of its stages in the picture are not certain"
    fields = _fields(backbone, {number: outputs[number] for number in found}, part, rows[0])
    targets = part.targets[list(rows)] if isinstance(part.targets, Tensor) and part.targets.ndim == 1 else None
    if targets is not None and targets.is_floating_point():
        targets = None
    shown = []
    for number, strongest in found.items():
        for channel in _distinct(strongest.value, _spread(strongest.value, targets)):
            patches = _patches(part, rows, strongest, channel, fields[number])
            shown.append(Channel(number, channel, fields[number], patches))
    return tuple(shown)


def as_map(output: Tensor, layout: str, grid: tuple[int, int] | None) -> Tensor | None:
    """Return an output as (N, C, h, w); None for tokens that are not those of the grid after a few others."""
    if layout == "NCHW":
        return output
    if layout == "NHWC":
        return output.permute(0, 3, 1, 2)
    if grid is None or not 0 <= output.shape[1] - grid[0] * grid[1] <= PREFIX:
        return None
    tokens = output[:, output.shape[1] - grid[0] * grid[1] :]
    return tokens.transpose(1, 2).reshape(len(output), -1, *grid)  # (N, h w, C) -> (N, C, h, w)


def _grid(backbone: Backbone, images: Tensor) -> tuple[int, int] | None:
    """Return the places of the patches of a transformer: those of its first convolution's output."""
    name = first_convolution(backbone.module, images.shape[1])
    if name is None:
        return None
    stage = StageOutput(name, "NCHW", 1)
    with torch.no_grad(), catch(backbone.module, [stage], lambda output, _: torch.tensor(output.shape)) as found:
        backbone.module(images[:1])
    shape = found[name].tolist() if name in found else []
    return (shape[2], shape[3]) if len(shape) == 4 else None


def _strongest(
    backbone: Backbone, outputs: Mapping[int, StageOutput], part: Part, rows: Sequence[int]
) -> dict[int, Strongest]:
    """Return the strongest responses of the channels of each stage whose output has a place for each response."""
    module = backbone.module
    device = next(module.parameters()).device
    with eval_mode(module):
        grid = _grid(backbone, _images(part, rows[:1], device))
        sizes: dict[str, tuple[int, int]] = {}

        def keep(output: Tensor, stage: StageOutput) -> Tensor:
            mapped = as_map(output, stage.layout, grid)
            if mapped is None:
                return torch.empty(0)
            sizes[stage.module] = (mapped.shape[2], mapped.shape[3])
            return torch.stack([each.double() for each in mapped.float().flatten(2).max(2)], 2).cpu()  # (N, C, 2)

        def run(batch: Sequence[int]) -> dict[str, Tensor]:
            with torch.inference_mode(), catch(module, list(outputs.values()), keep) as found:
                module(_images(part, batch, device))
            return found

        batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        parts = list(parallel(run, batches, device))
    found = {}
    for number, output in outputs.items():
        if output.module in sizes:
            values, places = torch.cat([each[output.module] for each in parts]).unbind(2)
            found[number] = Strongest(values.float(), places.long(), sizes[output.module])
    return found


def _fields(backbone: Backbone, outputs: Mapping[int, StageOutput], part: Part, row: int) -> dict[int, float]:
    """Return the effective receptive field of each stage, as the side of a square relative to the picture's.

    The square in the middle that holds 90 % of the absolute gradient of the middle response, summed over channels, by
    the pixels of a picture (Luo et al. 2016, arXiv 1701.04128).
    """
    module = backbone.module
    device = next(module.parameters()).device
    with eval_mode(module, gradients=True):
        pixels = _images(part, [row], device)
        grid, found = _grid(backbone, pixels), {}
        pixels.requires_grad_()
        with catch(module, list(outputs.values()), lambda output, _: output) as caught:
            module(pixels)
        for number, output in outputs.items():
            mapped = as_map(caught[output.module], output.layout, grid)
            assert mapped is not None
            middle = mapped[0, :, mapped.shape[2] // 2, mapped.shape[3] // 2]
            (gradient,) = torch.autograd.grad(middle.abs().sum(), pixels, retain_graph=True)
            found[number] = _side(gradient[0].abs().sum(0))
    return found


def _side(mass: Tensor) -> float:
    """Return the side of the square around the middle of (S, S) that holds most of it, relative to S."""
    size = mass.shape[0]
    places = torch.arange(size, device=mass.device)
    distance = torch.maximum((places - size // 2).abs()[:, None], (places - size // 2).abs()[None, :])
    by_distance = torch.zeros(size, device=mass.device).index_add_(0, distance.flatten(), mass.flatten())
    total = float(by_distance.sum())
    if total == 0:
        return 1.0
    radius = int((by_distance.cumsum(0) >= MASS * total).nonzero()[0])
    return min(1.0, (2 * radius + 1) / size)


def _spread(values: Tensor, targets: Tensor | None) -> Tensor:
    """Return how much the responses (N, C) of each channel differ between classes: the F ratio; else their spread."""
    centred = (values - values.mean(0)).double()
    total = centred.square().sum(0)
    if targets is None or len(values) < 3:
        return total / values.double().square().sum(0).clamp(min=1e-12)
    sums = torch.zeros(int(targets.max()) + 1, values.shape[1], dtype=torch.float64).index_add_(0, targets, centred)
    counts = torch.bincount(targets).clamp(min=1)[:, None]
    between = (sums.square() / counts).sum(0)
    return between / (total - between).clamp(min=1e-6 * total.clamp(min=1e-12))


def _distinct(values: Tensor, scores: Tensor) -> list[int]:
    """Return the channels with the highest scores that are not alike."""
    normal = values - values.mean(0)
    normal = normal / normal.norm(dim=0).clamp(min=1e-12)
    kept: list[int] = []
    for channel in scores.argsort(descending=True, stable=True).tolist():
        if all(float(normal[:, channel] @ normal[:, other]) < ALIKE for other in kept):
            kept.append(channel)
        if len(kept) == CHANNELS:
            break
    return kept


def _patches(part: Part, rows: Sequence[int], strongest: Strongest, channel: int, field: float) -> tuple[Patch, ...]:
    found = []
    height, width = strongest.size
    for picture in strongest.value[:, channel].argsort(descending=True, stable=True)[:PATCHES].tolist():
        pixels = _pixels(part, [rows[picture]])[0]
        row, column = divmod(int(strongest.place[picture, channel]), width)
        square = _square(pixels, (row + 0.5) / height, (column + 0.5) / width, field)
        value = float(strongest.value[picture, channel])
        found.append(Patch(items.item(part, rows[picture]), square.permute(1, 2, 0).contiguous().numpy(), value))
    return tuple(found)


def _square(pixels: Tensor, y: float, x: float, field: float) -> Tensor:
    """Return a square of a picture (C, S, S) around a place in [0, 1]², moved inside where it would leave it."""
    size = pixels.shape[1]
    side = min(size, max(round(field * size), size // SMALLEST))
    top, left = (min(max(0, round(place * size - side / 2)), size - side) for place in (y, x))
    return pixels[:, top : top + side, left : left + side]


def _pixels(part: Part, rows: Sequence[int]) -> Tensor:
    """Return the centre crops that the model sees, (N, C, S, S) uint8."""
    inputs = part.whole.inputs
    assert isinstance(inputs, Images)
    return inputs.batch(torch.tensor([part.chosen[row] for row in rows]))


def _images(part: Part, rows: Sequence[int], device: torch.device) -> Tensor:
    inputs = part.whole.inputs
    assert isinstance(inputs, Images)
    return normalise(_pixels(part, rows).to(device), inputs.spec)
