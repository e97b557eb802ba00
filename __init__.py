"""EchoEdge: compile EchoMimicV3 into bundles that phones, laptops and GPU servers play, and prove that they equal it."""

__version__ = "0.1.0"
