"""Vision and text models of the Hugging Face Hub, in the architectures of the transformers library."""

from zoo_hf.plugin import plugin

__all__ = ["plugin"]
