"""The bundle: its manifest, how it is written and read, recorded calls, and records of what was measured later."""

from .manifest import CONDITION_PROGRAMS as CONDITION_PROGRAMS
from .manifest import DECODE_PROGRAMS as DECODE_PROGRAMS
from .manifest import FORMAT as FORMAT
from .manifest import MANIFEST as MANIFEST
from .manifest import RECORDS as RECORDS
from .manifest import Bundle as Bundle
from .manifest import BundleWriter as BundleWriter
from .manifest import ClipRecord as ClipRecord
from .manifest import Delegation as Delegation
from .manifest import Figures as Figures
from .manifest import FileEntry as FileEntry
from .manifest import Hearing as Hearing
from .manifest import Manifest as Manifest
from .manifest import Method as Method
from .manifest import ModelRecord as ModelRecord
from .manifest import Parity as Parity
from .manifest import Program as Program
from .manifest import Recipe as Recipe
from .manifest import Saving as Saving
from .manifest import TensorSpec as TensorSpec
from .manifest import folder_sha256 as folder_sha256
from .manifest import shaped_name as shaped_name
