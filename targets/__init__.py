"""Compilers from the reference model to the programs of a bundle, one file per target."""
