"""Programs of a bundle for players in other languages, over two pipes; docs/PLAYERS.md has the protocol byte by byte."""
