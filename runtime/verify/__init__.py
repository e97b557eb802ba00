"""Compiled against full precision."""
