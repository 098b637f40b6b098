"""The doctors' parts, each with a known answer: planted faults are found, clean random data are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.evidence.report.doctor import cues, drift, grouped, labels, outliers, overfitting, permutation, shortcuts
from zoo.evidence.report.doctor.cues import Cue
from zoo.evidence.report.doctor.interventions import exchanged
from zoo.finetune.features import out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.tasks.classify import Classify


def blobs(count: int, seed: int, distance: float = 4.0, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, 8) of Gaussian classes, and their labels."""
    draws = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    centres = torch.eye(8)[:classes] * distance
    return torch.randn(count, 8, generator=draws) + centres[targets], targets


def test_out_of_fold_predictions_are_right_and_blind_to_the_own_label():
    features, targets = blobs(90, 0)
    task = Classify(("a", "b", "c"))
    found = out_of_fold.predict(task, ProbeData(features, targets), repeats=1)
    assert found.held.all()
    assert found.values.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert (found.values.argmax(1) == targets).float().mean() > 0.95
    flipped = targets.clone()
    flipped[0] = 1
    again = out_of_fold.predict(task, ProbeData(features, flipped), repeats=1)
    assert again.values[0].argmax() == targets[0]


def test_the_only_example_of_a_class_is_not_held_out():
    features, targets = blobs(31, 0)
    targets = targets % 2
    targets[30] = 2
    found = out_of_fold.predict(Classify(("a", "b", "c")), ProbeData(features, targets), repeats=1)
    assert found.held.tolist() == [True] * 30 + [False]


def test_confident_learning_on_a_worked_example():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    given = np.array([0, 0, 0, 1, 1, 1])
    assert labels.thresholds(probabilities, given) == pytest.approx([0.6, (0.8 + 0.7 + 0.55) / 3])
    found = labels.find(probabilities, given)
    assert found.issues.tolist() == [2]  # 0.55 of the last does not reach its own threshold, nor 0.45 that of class 0
    assert found.suggested.tolist() == [1, 1, 1, 0, 0, 0]


def test_flipped_labels_are_the_first_to_review():
    features, targets = blobs(200, 1, distance=7)
    given = targets.clone()
    flipped = torch.arange(0, 200, 20)
    given[flipped] = (given[flipped] + 1) % 3
    found = out_of_fold.predict(Classify(("a", "b", "c")), ProbeData(features, given), repeats=1)
    issues = labels.find(found.values.double().numpy(), given.numpy())
    assert set(np.argsort(issues.quality)[:10].tolist()) == set(flipped.tolist())
    assert set(issues.issues.tolist()) <= set(flipped.tolist())
    assert (issues.suggested[flipped] == targets[flipped].numpy()).all()


def test_permutation_p_is_small_for_a_relation_and_not_for_noise():
    chance = np.random.default_rng(0)
    side = chance.integers(0, 2, 60)

    def agreement(given: np.ndarray) -> float:
        return float((given == side).mean())

    assert permutation.compare(agreement, side).p == pytest.approx(1 / (1 + permutation.ROUNDS))
    assert permutation.compare(agreement, chance.integers(0, 2, 60)).p > 0.05


def frames(alike: float, seed: int = 0) -> tuple:
    """Return two parts of frames of 12 clips in 2 classes; `alike`: how far a clip is from the mean of its class."""
    chance = np.random.default_rng(seed)
    clips = np.repeat(np.arange(12), 6)
    features = chance.normal(0, 1, (72, 6)) + (alike * chance.normal(0, 1, (12, 6)))[clips] + 3 * (clips % 2)[:, None]
    held = np.arange(72) % 3 == 0
    names = np.array([f"clip{clip}" for clip in clips])
    return (features[~held], list(names[~held])), (features[held], list(names[held])), (clips % 2)[~held]


def test_frames_of_one_clip_in_both_parts_leak_if_they_are_alike():
    leak = grouped.find(*frames(4.0))
    assert leak.is_leak
    assert leak.tested.value > 0.9 > 0.5 > leak.tested.chance
    assert not grouped.find(*frames(0.0)).is_leak  # names alone are no leak


def test_groups_that_no_part_shares_are_not_tested():
    train, held, classes = frames(4.0)
    assert grouped.find(train, (held[0], ["other"] * len(held[0])), classes) is None


def test_a_cue_that_gives_the_label_away_is_a_shortcut():
    chance = np.random.default_rng(0)
    given = np.arange(120) % 3
    planted = Cue("corners", chance.normal(0, 1, (120, 4)) + 6 * np.eye(4)[given])
    noise = Cue("border", chance.normal(0, 1, (120, 4)))
    sender = Cue("sender", given + 3 * chance.integers(0, 2, 120))
    found = {one.cue: one for one in shortcuts.find([planted, noise, sender], given, 0.9)}
    assert {name for name, one in found.items() if one.is_hint} == {"corners", "sender"}
    assert found["corners"].tested.p == pytest.approx(1 / (1 + permutation.ROUNDS))


def test_a_cue_of_one_class_is_found():
    chance = np.random.default_rng(0)
    given = np.arange(160) % 8
    watermark = Cue("corners", chance.normal(0, 1, (160, 2)) + 8 * (given == 5)[:, None])
    (found,) = shortcuts.find([watermark], given, 0.95)
    assert found.is_hint
    assert found.given == 5


def test_area_under_the_curve_counts_ties_half():
    assert shortcuts.auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])) == 0.875


def test_exchanged_corners_come_from_another_class_and_the_rest_stays():
    pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 20, 20).contiguous()
    given = torch.tensor([0, 0, 1, 1])
    changed = exchanged(pixels, given, "corners")
    assert (given[changed[:, 0, 0, 0].long()] != given).all()
    assert torch.equal(changed[:, :, 5:15, 5:15], pixels[:, :, 5:15, 5:15])


def test_cues_of_texts_hold_length_and_sender():
    found = {
        cue.name: cue for cue in cues.of_texts(["From: A <a@x.org>\nhello there", "From: a@x.org\nbye", "no sender"])
    }
    assert found["length"].values.shape == (3, 3)
    assert found["sender"].values.tolist() == [0, 0, 1]


def test_drift_is_found_and_a_random_split_has_none():
    features, _ = blobs(200, 0, distance=0)
    assert not drift.find(features[:120], features[120:]).is_drift
    moved = drift.find(features[:120], features[120:] + 1)
    assert moved.is_drift
    assert moved.low > 0.8
    assert drift.find(features[:5], features[5:]) is None


def test_class_shares_that_change_are_found():
    train, other = np.repeat([0, 1], [50, 50]), np.repeat([0, 1], [10, 90])
    change = drift.of_shares(train, other, 2)
    assert change.is_change
    assert change.distance == pytest.approx(0.4)
    assert not drift.of_shares(train, train, 2).is_change


def test_an_outlier_is_found():
    features = blobs(60, 0)[0].double().numpy()
    features[7] = -30 * np.eye(8)[7]
    far, z = outliers.find(features)
    assert far.tolist() == [7]
    assert z[7] > outliers.LEAST_Z
    assert outliers.find(blobs(60, 0)[0].double().numpy())[0].tolist() == []


def test_the_interval_of_a_gap_is_newcombes():
    found = overfitting.gap(np.repeat([1.0, 0.0], [56, 14]), np.repeat([1.0, 0.0], [48, 32]))
    # Newcombe 1998, table II, example (a), method 10
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_memorised_examples_are_right_only_when_trained_on():
    trained, frozen = np.array([True, True, False]), np.array([True, False, False])
    assert overfitting.memorised(trained, frozen).tolist() == [1]


def test_a_starved_class_is_found_with_its_recall():
    train = np.repeat([0, 1, 2], [40, 40, 3])
    held = np.repeat([0, 1, 2], [10, 10, 4])
    hits = held != 2
    (found,) = overfitting.small_classes(train, held, hits, 3)
    assert (found.label, found.train, found.hits, found.held) == (2, 3, 0, 4)
    assert found.p < 0.01
    assert overfitting.small_classes(np.repeat([0, 1], [40, 30]), held, hits, 2) == []


@pytest.mark.parametrize(
    ("counts", "right", "named"),
    [((40, 40, 9), 4, []), ((40, 40, 9), 0, [2]), ((40, 40, 11), 0, []), ((5, 5, 5), 0, []), ((5, 5, 2), 4, [2])],
)
def test_a_class_that_is_a_bit_smaller_is_named_where_its_recall_is_worse(counts, right, named):
    held = np.repeat([0, 1, 2], [10, 10, 4])
    hits = (held != 2) | (np.arange(24) >= 24 - right)
    found = overfitting.small_classes(np.repeat([0, 1, 2], counts), held, hits, 3)
    assert [small.label for small in found] == named


def test_a_mark_of_similar_shades_is_a_shortcut_although_a_few_examples_lack_it():
    draws = np.random.default_rng(0)
    given = np.arange(300) % 6
    shades = np.array([10.0, 11, 12, 200, 201, 240])[given]
    values = np.where(draws.random(300) < 0.95, shades, 0.0)
    mark = Cue("corners", np.stack([values, np.zeros(300)], 1))
    (found,) = shortcuts.find([mark], given, 0.99)
    assert found.is_hint
    assert found.share > 0.9
    assert not shortcuts.find([Cue("corners", draws.normal(size=(300, 2)))], given, 0.99)[0].is_hint


def test_the_detectable_drift_is_detected_in_eight_of_ten_draws():
    area = drift.detectable_auc(200, 30)
    shift = np.sqrt(2) * stats.norm.ppf(area)  # of two normal distributions with this area
    draws = np.random.default_rng(0)
    tested = [
        stats.mannwhitneyu(draws.normal(size=30) + shift, draws.normal(size=200), alternative="greater").pvalue
        for _ in range(400)
    ]
    assert np.mean(np.array(tested) <= drift.MAX_P) == pytest.approx(drift.POWER, abs=0.06)
    assert drift.detectable_auc(500, 500) < drift.detectable_auc(500, 50) < area


def test_outliers_that_could_be_told_are_a_share_of_a_class_left_out():
    draws = np.random.default_rng(0)
    labels_ = np.arange(90) % 3
    near = draws.normal(size=(90, 16))
    assert outliers.share_told(near, labels_) < 0.1
    far = near + 40 * np.eye(16)[labels_] * (labels_ == 2)[:, None]
    assert outliers.share_told(far, labels_) == pytest.approx(1 / 3, abs=0.05)  # those of the distant class
