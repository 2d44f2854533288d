"""Data sets into shards, and statistics out of shards."""
