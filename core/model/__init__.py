"""The full-precision model: transformer, autoencoders, encoders, and the programs that they are compiled as."""
