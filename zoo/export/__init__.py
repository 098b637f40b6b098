"""Saved models in the formats of other libraries, each verified before it is handed over."""
