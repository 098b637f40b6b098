"""Shortcut hints: does a simple cue predict the label nearly as well as the model (Geirhos et al. 2020, 2004.07780)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import KDTree
from scipy.special import logsumexp

from zoo.evidence.report.doctor import permutation
from zoo.evidence.report.doctor.cues import Cue
from zoo.evidence.report.doctor.permutation import Tested

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FOLDS = 5
MAX_P = 0.01
LEAST_SHARE = 0.7
"""Least share of the model's skill (balanced accuracy above chance) that a cue has to reach."""
LEAST_AUC, FEWEST = 0.98, 15
"""Least area under the ROC curve of a class that a cue gives away, and least number of its examples."""
SHRINK = 1e-3
"""Added to the variances of the linear discriminant."""
PRIOR = 1.0
"""Pseudo-examples of the class frequencies in each category."""
NEIGHBOURS, NEAR = 5, 1e-3
"""Nearest examples that vote, and the distance, in standard deviations, from which nearer ones count no more."""
Scorer = Callable[[Ints], Floats]
"""Labels (N,) -> out-of-fold log probabilities (N, K), classes equally likely before the cue is known."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a cue alone predicts the class, out of fold.

    tested   balanced accuracy against shuffled labels
    share    share of the model's skill that it reaches: (cue - 1/K) / (model - 1/K)
    given    the class it separates best, as an index, and the area under the ROC curve of that
    """

    cue: str
    tested: Tested
    share: float
    given: int
    auc: float

    @property
    def is_hint(self) -> bool:
        """Whether it is beyond chance, and near the model or enough for one class."""
        return self.tested.p <= MAX_P and (self.share >= LEAST_SHARE or self.auc >= LEAST_AUC)


def find(cues: Sequence[Cue], labels: Ints, model: float, *, seed: int = 0) -> list[Shortcut]:
    """Test each cue of examples with labels (N,) in [0, K); `model` is the balanced accuracy of the model.

    Only promising cues have the permutation test, which takes 200 times as long.
    """
    classes = int(labels.max()) + 1
    folds = _folds(labels, seed)
    found = []
    for cue in cues:
        tried = [(score, score(labels)) for score in _scorers(cue, folds, classes)]
        scorer, scores = max(tried, key=lambda pair: balanced_accuracy(pair[1].argmax(1), labels))
        value = balanced_accuracy(scores.argmax(1), labels)
        share = (value - 1 / classes) / max(model - 1 / classes, 1e-9)
        counts = np.bincount(labels, minlength=classes)
        smooth = tried[0][1]  # a vote gives many examples the same scores
        areas = [auc(smooth[:, k], labels == k) if counts[k] >= FEWEST else 0.0 for k in range(classes)]
        given = int(np.argmax(areas))
        tested = Tested(value, 1 / classes, 1.0)
        if share >= LEAST_SHARE or areas[given] >= LEAST_AUC:

            def accuracy(shuffled: Ints, scorer: Scorer = scorer) -> float:
                return balanced_accuracy(scorer(shuffled).argmax(1), shuffled)

            tested = permutation.compare(accuracy, labels, seed=seed)
        found.append(Shortcut(cue.name, tested, share, given, areas[given]))
    return sorted(found, key=lambda one: -max(one.share, one.auc))


def balanced_accuracy(answers: Ints, labels: Ints) -> float:
    """Return the mean recall of the classes that occur."""
    return float(np.mean([(answers[labels == k] == k).mean() for k in np.unique(labels)]))


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the probability that a positive example scores higher; ties count half."""
    ranks, count = stats.rankdata(scores), int(positive.sum())
    if count in (0, len(scores)):
        return 0.5
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def _folds(labels: Ints, seed: int) -> Ints:
    """Return the fold (N,) of each example, stratified by class."""
    chance = np.random.default_rng(seed)
    shuffled = chance.permutation(len(labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % FOLDS
    return fold


def _scorers(cue: Cue, folds: Ints, classes: int) -> list[Scorer]:
    """Return the classifiers of a cue: of a category its frequencies, of numbers a discriminant and a vote."""
    if cue.is_category:
        return [partial(_scores, cue, folds, classes, _by_category)]
    return [partial(_scores, cue, folds, classes, _discriminant), _vote(cue.values, folds, classes)]


def _scores(cue: Cue, folds: Ints, classes: int, score: Callable[..., Floats], labels: Ints) -> Floats:
    found = np.zeros((len(labels), classes))
    for fold in range(FOLDS):
        kept, held = folds != fold, folds == fold
        scores = score(cue.values[kept], labels[kept], cue.values[held], classes)
        found[held] = scores - logsumexp(scores, axis=1, keepdims=True)
    return found


def _vote(values: Floats, folds: Ints, classes: int) -> Scorer:
    """Return the vote of the nearest examples of the other folds, by inverse distance of scaled values (N, D).

    It separates classes that differ by little, such as the grey levels of a mark, where the variances within the
    classes are dominated by a few examples without it.
    """
    scaled = (values - values.mean(0)) / values.std(0).clip(1e-9)
    nearest, weights = [np.zeros((len(values), NEIGHBOURS), kind) for kind in (np.int64, np.float64)]
    for fold in range(FOLDS):
        kept, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        count = min(NEIGHBOURS, len(kept))
        apart, places = KDTree(scaled[kept]).query(scaled[held], np.arange(1, count + 1))
        nearest[held[:, None], np.arange(count)] = kept[places]
        weights[held[:, None], np.arange(count)] = 1 / (apart + NEAR)

    def scores(labels: Ints) -> Floats:
        votes = np.zeros((len(values), classes))
        np.add.at(votes, (np.arange(len(values))[:, None], labels[nearest]), weights)
        votes = votes / np.bincount(labels, minlength=classes).clip(1) + 1e-9
        return np.asarray(np.log(votes / votes.sum(1, keepdims=True)))

    return scores


def _discriminant(values: Floats, labels: Ints, held: Floats, classes: int) -> Floats:
    """Return the scores of a linear discriminant with equal priors (Fisher 1936)."""
    one_hot = np.eye(classes)[labels]
    counts = one_hot.sum(0)
    means = (one_hot.T @ values) / counts.clip(1)[:, None]
    within = values - means[labels]
    scale = within.std(0).clip(1e-9)
    covariance = (within / scale).T @ (within / scale) / len(values) + SHRINK * np.eye(values.shape[1])
    scaled = means / scale
    weights = np.linalg.solve(covariance, scaled.T)  # (D, K)
    scores = (held / scale) @ weights - 0.5 * (scaled * weights.T).sum(1)
    return np.where(counts > 0, scores, -np.inf)


def _by_category(values: Ints, labels: Ints, held: Ints, classes: int) -> Floats:
    """Return the log probability of each category in a class, relative to that in all of them."""
    categories = int(max(values.max(), held.max(initial=0))) + 1
    counts = np.zeros((categories, classes))
    np.add.at(counts, (values, labels), 1)
    sizes = counts.sum(0)
    shares = (counts + PRIOR / classes) / (sizes + PRIOR)
    scores = np.log(shares[held])
    unseen = counts[held].sum(1) == 0
    scores[unseen] = 0.0
    return np.where(sizes > 0, scores, -np.inf)
