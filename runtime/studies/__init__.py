"""What weights, recipes and settings are worth, measured."""
