"""Catalogues of backbones: installed plugins, their rows, and names resolved to entries."""
