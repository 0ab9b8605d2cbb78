"""The alarm of a gallery: inputs unlike those of its calibration are noticed without a label, and others are not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from textsiam.search.galleries.drift import DriftWatch, Levels, drift_between, levels_of, usual_levels

DIM, ENROLLED = 32, 40


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def people(rng, count=ENROLLED):
    return unit(rng.normal(size=(count, DIM)) + 0.4)


def seen(rng, persons, each, *, scanner=0.0):
    """Return inputs of persons; another scanner adds the same to all of them."""
    noise = 0.6 * rng.normal(size=(len(persons) * each, DIM)) / np.sqrt(DIM) * 3
    return unit(np.repeat(persons, each, axis=0) + 0.1 * noise + scanner)


def test_a_level_is_the_mean_similarity_to_all_but_the_most_similar():
    given = np.array([[0.9, 0.1, 0.3], [0.0, -0.2, 0.4]], np.float32)
    assert levels_of(given) == pytest.approx([0.2, -0.1])


def test_levels_look_at_a_bounded_number_of_identities():
    given = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    assert np.array_equal(levels_of(given), levels_of(given[:, :256]))


def test_too_few_inputs_or_identities_say_nothing():
    given = np.zeros((60, 3), np.float32)
    assert usual_levels(given[:49], 20) is None
    assert usual_levels(given[:, :1], 20) is None
    usual = usual_levels(given, 20)
    assert usual is not None
    assert drift_between(usual, np.ones(49, np.float32)) is None
    assert drift_between(None, np.ones(80, np.float32)) is None
    assert drift_between(usual, np.ones(80, np.float32)).distance == 1.0
    one = usual_levels(given, 1)  # whose inputs all are of one person
    assert drift_between(one, np.ones(80, np.float32)) is None


def test_other_people_raise_no_alarm_and_another_scanner_does():
    false, missed = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        enrolled = people(rng)
        usual = usual_levels(seen(rng, enrolled, 6) @ enrolled.T, ENROLLED)
        half = np.concatenate([enrolled[::2], people(rng)[::2]])  # half of them are strangers
        alike, other = (seen(rng, half, 6, scanner=scanner) @ enrolled.T for scanner in (0.0, 0.5))
        false += drift_between(usual, levels_of(alike)) is not None
        missed += drift_between(usual, levels_of(other)) is None
    assert (false, missed) == (0, 0)


def test_the_watch_says_once_that_inputs_differ_and_forgets_after_a_new_calibration():
    rng = np.random.default_rng(1)
    persons = people(rng)
    gallery = SimpleNamespace(
        names=[f"{k}" for k in range(ENROLLED)],
        similarities_of=lambda probes, names: probes @ persons[[int(name) for name in names]].T,
    )
    watch, usual = DriftWatch(), usual_levels(seen(rng, persons, 6) @ persons.T, ENROLLED)

    def told(usual, **changed):
        return [watch.take(gallery, usual, part) for part in np.split(seen(rng, persons, 8, **changed), 10)]

    assert not any(told(usual))
    assert watch.drift is None
    assert told(usual, scanner=0.5).count(True) == 1
    assert "calibrate with inputs like these" in str(watch.drift)
    assert watch.drift.to_dict()["distance"] > watch.drift.allowed
    read_again = Levels(usual.values.copy(), *usual[1:])  # as after an enrolment
    assert told(read_again, scanner=0.5).count(True) == 0  # it has been said
    assert watch.drift is not None
    again = usual_levels(seen(rng, persons, 6, scanner=0.5) @ persons.T, ENROLLED)
    assert not any(told(again, scanner=0.5))
    assert watch.drift is None


def test_a_gallery_that_cannot_tell_is_not_watched():
    gallery = SimpleNamespace(names=["a", "b"])
    assert DriftWatch().take(gallery, None, np.zeros((300, DIM), np.float32)) is False
