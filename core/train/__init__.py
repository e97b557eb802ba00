"""Training of the built-in nano model on procedurally drawn talking heads."""
