"""Backbone catalogues: plugin discovery, catalogue files, and name lookup."""
