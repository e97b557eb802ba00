"""What a player computes between programs, on numpy alone."""
