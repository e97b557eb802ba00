"""Weights: found in folders, checked, loaded whole or streamed; those of nano ship with the package."""
