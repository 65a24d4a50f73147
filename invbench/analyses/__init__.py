"""Measurements that are not runs of a method: one file a kind, found by its name."""
