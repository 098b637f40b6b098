"""The plugin behind the names timm/…: it finds timm's nets by their rows, and reads timm's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import Backbone, Classifier, Entry, Plugin, Repository

if TYPE_CHECKING:
    from torch import Tensor


class Timm(Plugin):
    """The image models of timm; importing that costs seconds, so each method does it when it is called."""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the empty net of a row, without its classifier; PluginError if the row describes no net."""
        from zoo_timm import nets

        net = nets.create(entry, num_classes=0)
        nets.fill_buffers(net)
        nets.forget_caches(net)
        stages = nets.stages(net)
        targets = nets.lora_targets(net, stages[0])
        return Backbone(
            nets.returning_features(net),
            nets.dim(net),
            entry.input,
            stages,
            lora_targets=targets,
            attention=nets.attention(net),
        )

    def adapt(self, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
        """Read a file as timm does, and drop its classifier."""
        from zoo_timm import reading

        return reading.adapt(entry, state)

    def resolve(self, name: str, look: Callable[[str], Repository]) -> Entry | None:
        """Return a row for a name that timm knows and the catalogue does not, or for a repository in timm's format."""
        from zoo_timm import entries

        return entries.in_repository(name, look) if "/" in name else entries.pretrained(name)

    def classifier(self, entry: Entry, state: Mapping[str, Tensor], files: Mapping[str, Path]) -> Classifier | None:
        """Return the ImageNet classifier in a file of timm's own, if that is one linear layer."""
        from zoo_timm import reading

        return reading.classifier(entry, state)


plugin = Timm()
