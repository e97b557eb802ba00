"""core/train/soup.py: the allocation of tasks from the hard one to the mixture, wrong labels, dropped modalities."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import ConfigError
from echoedge.core.plan import Branch
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.train.soup import ModalSoup, TaskSoup, has_audio, picture_of

# ---- tasks -----------------------------------------------------------------------------------------------------------------------


def test_weights_follow_the_moving_average_from_the_hard_task_to_the_mixture() -> None:
    soup = TaskSoup((("i2v+a2v", 6.0), ("a2v", 2.0), ("t2v", 2.0)), hard="a2v", decay=0.9)
    mixture, weights = np.array([0.6, 0.2, 0.2]), np.array([0.0, 1.0, 0.0])
    for step in range(60):
        assert np.allclose(soup.at(step), weights, atol=1e-12)  # rounding of 60 steps: 2e-16 measured
        weights = 0.9 * weights + 0.1 * mixture
    assert np.allclose(soup.at(5000), mixture)


def test_without_a_hard_task_the_mixture_holds_from_the_start() -> None:
    soup = TaskSoup((("a2v", 1.0), ("i2v", 3.0)), hard=None)
    assert np.allclose(soup.at(0), [0.25, 0.75]) and np.allclose(soup.at(99), [0.25, 0.75])


def test_the_easy_tasks_only_ever_gain() -> None:
    soup = TaskSoup()
    weights = np.array([soup.at(step) for step in range(0, 600, 20)])
    hard = soup.names.index("a2v")
    assert weights[0, hard] == 1.0
    assert (np.diff(np.delete(weights, hard, 1), axis=0) > 0).all()


def test_the_same_mask_has_the_same_name() -> None:
    assert picture_of("t2v") == picture_of("a2v") == ""
    assert picture_of("a2v+i2v") == picture_of("i2v") == "i2v"
    assert picture_of("lipsync+i2v") == picture_of("i2v+lipsync") != picture_of("i2v")
    assert has_audio("lipsync") and has_audio("i2v+a2v") and not has_audio("i2v")


def test_wrong_labels_have_their_share_and_are_wrong() -> None:
    soup = TaskSoup(mislabelled=0.2)
    rng = np.random.default_rng(0)
    task = rng.integers(0, len(soup.names), 20_000)
    shown = soup.wrong_labels(rng, task)
    wrong = shown != task
    assert abs(wrong.mean() - 0.2) < 0.01  # 3.5 standard deviations of 20,000 draws
    pictures = np.array([picture_of(name) for name in soup.names])
    assert (pictures[shown[wrong]] != pictures[task[wrong]]).all()
    assert set(task[wrong]) == set(range(len(soup.names)))


def test_labels_are_right_where_nothing_else_is_asked() -> None:
    task = np.arange(6)
    assert (TaskSoup(mislabelled=0.0).wrong_labels(np.random.default_rng(0), task) == task).all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": ()}, "at least one task"),
        ({"weights": (("i2w", 1.0),)}, "no task 'i2w'.*'i2v'"),
        ({"weights": (("a2v", 0.0), ("i2v", 1.0))}, "weight of 'a2v' is 0"),
        ({"weights": (("a2v", 1.0), ("a2v", 1.0), ("i2v", 1.0))}, "twice"),
        ({"hard": "last"}, "hard task is 'last'; choose"),
        ({"decay": 1.0}, "decay is 1"),
        ({"mislabelled": -0.1}, "mislabelled is -0.1"),
        ({"weights": (("a2v", 1.0), ("t2v", 1.0)), "mislabelled": 0.1}, "the same mask"),
    ],
)
def test_mixtures_that_cannot_work_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        TaskSoup(**options)


# ---- modalities ------------------------------------------------------------------------------------------------------------------


def test_dropped_modalities_have_their_shares() -> None:
    soup = ModalSoup((("audio", 0.1), ("text+audio", 0.2), ("image", 0.05)))
    kept = soup.kept(np.random.default_rng(0), 40_000)
    shares = {(True, True, False): 0.1, (False, True, False): 0.2, (True, False, True): 0.05, (True, True, True): 0.65}
    counted = {row: float((kept == row).all(1).mean()) for row in shares}
    assert all(abs(counted[row] - share) < 0.01 for row, share in shares.items()), counted  # 4 standard deviations
    assert sum(counted.values()) == pytest.approx(1.0)  # and no other combination


@pytest.mark.parametrize("name", list(PLAN_PRESETS))
def test_every_branch_of_the_presets_is_trained(name: str) -> None:
    assert ModalSoup().unseen(build_plan(PLAN_PRESETS[name]).branches) == []


def test_every_branch_that_a_plan_can_hold_is_trained() -> None:
    branches = [
        Branch.of(text, image=image, audio=audio)
        for text in ("prompt", "negative", "")
        for image in (True, False)
        for audio in (True, False)
    ]
    assert ModalSoup().unseen(branches) == []


def test_a_branch_that_training_never_shows_is_named() -> None:
    soup = ModalSoup((("audio", 0.1), ("text", 0.0)))
    branches = [Branch.of("prompt"), Branch.of("prompt", audio=False), Branch.of(""), Branch.of("prompt", image=False)]
    assert soup.unseen(branches) == ["empty", "prompt/no-image"]


@pytest.mark.parametrize(
    ("drops", "complaint"),
    [
        ((("voice", 0.1),), "no modality 'voice'"),
        ((("text+audio", 0.1), ("audio+text", 0.1)), "twice"),
        ((("text", 0.5), ("audio", 0.5)), "reach 1"),
        ((("text", 1.5),), "1.5"),
    ],
)
def test_drops_that_cannot_work_are_refused(drops: tuple, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ModalSoup(drops)
