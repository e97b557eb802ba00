"""Whether a model fits a device, and how fast it would play there, before anything is compiled: docs/FIT.md."""
