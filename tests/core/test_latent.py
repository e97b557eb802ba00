"""Latent error in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.latent import latent_error

REFERENCE = np.random.default_rng(0).standard_normal((16, 7, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.01, -0.5, 1.0])
def test_a_scaled_copy_is_off_by_its_share(share: float) -> None:
    assert latent_error(REFERENCE * np.float32(1 + share), REFERENCE) == pytest.approx(abs(share), abs=1e-6)


def test_added_noise_measures_its_size_and_independent_latents_root_two() -> None:
    noise = np.random.default_rng(1).standard_normal(REFERENCE.shape)
    noise *= 0.1 * np.linalg.norm(REFERENCE) / np.linalg.norm(noise)
    assert latent_error(REFERENCE + noise, REFERENCE) == pytest.approx(0.1, rel=1e-5)
    other = np.random.default_rng(2).standard_normal(REFERENCE.shape)
    assert latent_error(other, REFERENCE) == pytest.approx(2**0.5, rel=0.03)  # 7,168 values: 3 standard deviations are 0.025


def test_not_a_number_is_not_hidden() -> None:
    broken = REFERENCE.copy()
    broken[0, 0, 0, 0] = np.nan
    assert np.isnan(latent_error(broken, REFERENCE))


@pytest.mark.parametrize("reference", [np.zeros((2, 3)), np.zeros((0,)), np.ones((3, 2))])
def test_what_has_no_error_says_so(reference: np.ndarray) -> None:
    with pytest.raises(InputError):
        latent_error(np.ones((2, 3)) if reference.size else reference, reference)
