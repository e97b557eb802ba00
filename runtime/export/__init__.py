"""From a model to a bundle: record, compile, execute, put together."""
