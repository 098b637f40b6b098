"""All pretrained image models of timm: the names timm/…"""

from zoo_timm.plugin import plugin

__all__ = ["plugin"]
