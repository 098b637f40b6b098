"""The plugin of the names timm/…: build timm models from catalogue rows and load timm weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import Backbone, Classifier, Entry, Exported, Plugin, Repository, Trained

if TYPE_CHECKING:
    from torch import Tensor


class Timm(Plugin):
    """Image models of timm, which each method imports lazily because that takes seconds."""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the model of a row without weights and classifier; raises PluginError for an invalid row."""
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
        """Convert a checkpoint as timm does, and drop its classifier."""
        from zoo_timm import reading

        return reading.adapt(entry, state)

    def resolve(self, name: str, look: Callable[[str], Repository]) -> Entry | None:
        """Return a row for a pretrained timm name missing from the catalogue, or for a repository in timm format."""
        from zoo_timm import entries

        return entries.in_repository(name, look) if "/" in name else entries.pretrained(name)

    def classifier(self, entry: Entry, state: Mapping[str, Tensor], files: Mapping[str, Path]) -> Classifier | None:
        """Return the ImageNet classifier of an official timm checkpoint, if it is one linear layer."""
        from zoo_timm import reading

        return reading.classifier(entry, state)

    def export(self, library: str, entry: Entry, trained: Trained, files: Mapping[str, Path]) -> Exported | None:
        """Return the network with timm's classifier and config.json, which transformers opens too."""
        from zoo_timm import exporting

        return exporting.exported(entry, trained) if library in ("timm", "transformers") else None


plugin = Timm()
