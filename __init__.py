"""EchoEdge: compile EchoMimicV3 into bundles that phones, laptops and GPU servers play, and prove that they equal it."""

__version__ = "0.1.0"

from .api import animate as animate
from .api import bench as bench
from .api import export as export
from .api import inspect as inspect
from .api import verify as verify
