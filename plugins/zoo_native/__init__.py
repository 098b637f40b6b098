"""Native ResNets and plain nets without skip connections: the names native/…"""

from zoo_native.plugin import plugin

__all__ = ["plugin"]
