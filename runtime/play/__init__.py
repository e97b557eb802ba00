"""Portrait and voice in, clip out."""
