"""Saved Core ML packages run on any machine: what an export computes is proven without an Apple device.

`Package.open` reads NAME.mlpackage; a `Function` of it runs on arrays by name, in one of two precisions. `Observations` notes the
range of every result; `compare` names the first operator that differs from a package or from results that are known to be good.
An operator, a type or a file that is not understood is refused by name. What Apple's hardware sums inside an operator is documented
nowhere, so two right runs agree to half precision, not to the bit.

How it is made: `protos` the format's classes, `weights` and `values` constants, `program` the steps in order, `function` runs them,
`ops/` one family of operators a file; `lint/` what keeps Apple's Neural Engine from running a function, read off its file.
"""

from .compare import Compared, Differing, compare
from .function import Function, Made, Precision, Tap
from .observed import Observations, Observed
from .package import Package

__all__ = ["Compared", "Differing", "Function", "Made", "Observations", "Observed", "Package", "Precision", "Tap", "compare"]
