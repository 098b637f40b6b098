"""Streams: examples read from shards in windows, for data larger than memory and disk."""
