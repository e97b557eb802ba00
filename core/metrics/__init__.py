"""Measures of a clip's quality, one per file, shared by training and by verification."""
