"""Core ML: programs of the reference as packages of half precision, for Apple's phones and computers."""
