from __future__ import annotations

import numpy as np
import pytest
import torch

from textsiam.data.pairs import Pairs
from textsiam.models.ensemble import Ensemble, open_scorer, squared_distances
from textsiam.training import ensembles
from textsiam.training.checkpoints import ResumeError
from textsiam.training.ensembles import train_cluster_ensemble
from textsiam.training.settings import Settings

SETTINGS = Settings(epochs=1, batch_size=8, learning_rate=1e-3, precision="fp32", tracker="none")


def train(driver, base, output, **more):
    pairs = more.pop("pairs", driver.keyword_pairs(96))
    more = {"clusters": 2, "settings": SETTINGS, "validation": driver.keyword_pairs(24, seed=9), **more}
    return train_cluster_ensemble(
        base, pairs, driver.build_objective(["online_contrastive"]), output=output, quiet=True, **more
    )


@pytest.mark.filterwarnings("ignore:step")  # three tiny regions collapse
def test_every_pair_lies_in_the_region_of_the_nearest_centroids(driver, tmp_path, monkeypatch):
    base, pairs = driver.small_twin(dropout=0), driver.keyword_pairs(96)
    given = []
    once = ensembles.train_members
    monkeypatch.setattr(ensembles, "train_members", lambda *a, **k: given.extend(a[3]) or once(*a, **k))
    regions = train(driver, base, tmp_path, clusters=3, validation=None).ensemble.regions
    parts = [member.pairs for member in given]
    rows = sorted((a, b, y) for p in parts for a, b, y in zip(p.left_texts, p.right_texts, p.labels, strict=True))
    assert rows == sorted(zip(pairs.left_texts, pairs.right_texts, pairs.labels, strict=True))
    for k, part in enumerate(parts):  # the sum of squared distances is least there
        u, v = (squared_distances(base.encode(t, precision="fp32"), regions.centroids)
                for t in (part.left_texts, part.right_texts))  # fmt: skip
        assert set((u + v).argmin(1)) <= {k}
    weights = np.sort(regions.weights(pairs.texts, precision="fp32"), 1)  # half weigh theirs e times the next
    assert np.median(np.log(weights[:, -1] / weights[:, -2])) == pytest.approx(1, abs=0.02)


def test_one_member_is_trained_for_each_region(driver, tmp_path):
    base = driver.small_twin()
    before = {n: t.clone() for n, t in base.state_dict().items()}
    result = train(driver, base, tmp_path)
    assert isinstance(result.ensemble, Ensemble)
    assert len(result.ensemble.twins) == len(result.results) == 2
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())
    states = [twin.state_dict() for twin in result.ensemble.twins]
    for state in states:
        assert any(not torch.equal(t, before[n]) for n, t in state.items())
    assert any(not torch.equal(t, states[1][n]) for n, t in states[0].items())
    pairs = driver.keyword_pairs(96)
    result.ensemble.calibrate(pairs).save_pretrained(tmp_path / "ensemble")
    again = open_scorer(tmp_path / "ensemble", device="cpu")
    np.testing.assert_array_equal(again.encode(pairs.texts), result.ensemble.encode(pairs.texts))


def test_a_region_of_one_label_is_refused_before_any_training(driver, tmp_path):
    pairs = driver.keyword_pairs(96)
    positives = Pairs.concat([pairs.select(pairs.labels == 1)])
    with pytest.raises(ValueError, match="use fewer clusters than 2"):
        train(driver, driver.small_twin(), tmp_path, pairs=positives)
    assert not (tmp_path / "member-0").exists()
    with pytest.raises(ValueError, match="clusters must be from 1 to"):
        train(driver, driver.small_twin(), tmp_path, clusters=0)


def test_finished_members_are_opened_and_the_rest_is_trained(driver, tmp_path, monkeypatch):
    base = driver.small_twin()
    whole = train(driver, base, tmp_path / "whole").ensemble
    calls = []
    once = ensembles.train

    def noting(*arguments, **named):
        calls.append(named["output"].name)
        if calls == ["member-0", "member-1"]:
            raise KeyboardInterrupt
        return once(*arguments, **named)

    monkeypatch.setattr(ensembles, "train", noting)
    with pytest.raises(KeyboardInterrupt):
        train(driver, base, tmp_path / "cut")
    result = train(driver, base, tmp_path / "cut", resume=True)
    assert calls == ["member-0", "member-1", "member-1"]
    assert all(one.history for one in result.results)
    for ours, theirs in zip(result.ensemble.twins, whole.twins, strict=True):
        assert all(torch.equal(t, ours.state_dict()[n]) for n, t in theirs.state_dict().items())
    np.testing.assert_array_equal(result.ensemble.regions.centroids, whole.regions.centroids)
    with pytest.raises(ResumeError, match="clusters was 2 and is now 3"):
        train(driver, base, tmp_path / "cut", resume=True, clusters=3)
