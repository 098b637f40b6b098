"""ConvMixer backbones as a zoo plugin: build the backbone of a catalogue row and name its stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.plugin import Backbone, Entry, ImageInput, Plugin


class Acme(Plugin):
    """The plugin of the names acme/…"""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the backbone of a row without weights; its options are keyword arguments of the model."""
        from acme_zoo.net import ConvMixer  # imported here: `zoo list` does not need torch

        assert isinstance(entry.input, ImageInput)
        net = ConvMixer(entry.input.channels, **entry.options)
        blocks = [(f"blocks.{index}",) for index in range(len(net.blocks))]
        return Backbone(net, net.width, entry.input, stages=(("stem",), *blocks))


plugin = Acme()
