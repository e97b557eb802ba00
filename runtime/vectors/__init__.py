"""Golden vectors for players in other languages: what this player computes from given numbers, as docs/PLAYERS.md lays it out."""
