"""ConvMixer backbones as a plugin of `zoo`: what to build for a catalogue row, and how its parts are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.plugin import Backbone, Entry, ImageInput, Plugin


class Acme(Plugin):
    """The plugin behind the names acme/…"""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the empty net of a row; its options are the net's own arguments."""
        from acme_zoo.net import ConvMixer  # here, because it imports torch: `zoo list` and `zoo plugins` need none

        assert isinstance(entry.input, ImageInput)
        net = ConvMixer(entry.input.channels, **entry.options)
        blocks = [(f"blocks.{index}",) for index in range(len(net.blocks))]
        return Backbone(net, net.width, entry.input, stages=(("stem",), *blocks))


plugin = Acme()
