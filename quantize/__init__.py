"""Weight recipes and weight quantisation."""
