"""Image and text models of the Hugging Face Hub with transformers architectures."""

from zoo_hf.plugin import plugin

__all__ = ["plugin"]
