"""Residual nets in code of our own, and their plain twins without skips: the names native/…"""

from zoo_native.plugin import plugin

__all__ = ["plugin"]
