"""The full-precision reference model, the sampler as data, and the bundle format."""
