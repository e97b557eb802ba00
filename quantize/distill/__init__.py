"""A student that takes few steps of one forward each: what it learns from, how, and what may be asked of it."""
