"""The sampler as data, and the arithmetic that any player repeats to the letter."""

from .normals import noise as noise
from .normals import philox as philox
from .plan import MAX_AUDIO_SHIFT as MAX_AUDIO_SHIFT
from .plan import MAX_MODALITY_WEIGHT as MAX_MODALITY_WEIGHT
from .plan import MAX_STEPS as MAX_STEPS
from .plan import Branch as Branch
from .plan import Float64 as Float64
from .plan import NoiseRule as NoiseRule
from .plan import SamplingPlan as SamplingPlan
from .plan import Window as Window
from .plan import WindowRule as WindowRule
from .plan import advance as advance
from .plan import blend as blend
from .plan import blend_frame as blend_frame
from .plan import check_choice as check_choice
from .plan import check_count as check_count
from .plan import check_number as check_number
from .plan import check_seed as check_seed
from .plan import guide as guide
from .plan import windows as windows
