"""Exact rewrites: the same numbers in operators that backends take."""
