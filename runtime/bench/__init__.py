"""Speed: of clips, of operators, of steps."""
