"""The configuration of the data, and how the splits of a run are made of it."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textsiam.config.sets import ReadSet, SetConfig, read_set
from textsiam.data.pairs import Pairs
from textsiam.data.splits import Splits, split_pairs
from textsiam.data.tables.columns import NOUNS
from textsiam.data.time_split import split_pairs_by_time
from textsiam.forums.reading import dates_of_texts, is_forum
from textsiam.media.imitations import draw_judged
from textsiam.media.labelled import LabelledFiles
from textsiam.media.medium import Medium
from textsiam.media.pairs import most_pairs
from textsiam.media.readers import read_labelled
from textsiam.media.splits import split_labelled
from textsiam.modality import MEDIA, medium_of, modality_of
from textsiam.sources import read_pairs
from textsiam.yamlfile import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from. A split without a source of its own is cut from `train`, question-disjoint.

    Attributes:
        train: A file, a Hub id, or "sample:forum"; a pattern of files, or a list of them, is read as one.
        validation: Pairs that choose the best weights.
        calibration: Pairs that the probability and the threshold are learned from.
        test: Pairs that the report is about.
        validation_share: Share of `train` that is cut for validation when it has no source.
        calibration_share: The same for calibration.
        test_share: The same for test.
        columns: Names of the columns, where they are not recognised: left, right, label. Of the table that a folder
            of images has at its root: image, class (`writer/kind` makes one class of two columns).
        on_bad_row: "error" stops at the first bad row, "skip" counts it and goes on.
        quoted: Whether `"` quotes fields of .tsv and .csv (also over several lines), or is an ordinary character.
        pairs: Pairs that are drawn for training where `train` holds labelled images or sounds (a folder or .zip of
            class folders, an idx file); None draws 20,000, or as many as there are.
        more: Further sets to learn from, by their source or as `SetConfig`. Splits are cut from `train` alone. But
            labelled files by their source alone are cut as `train` is, whose classes they join; no pair is of two.
        unseen: Classes of files, or folders of classes, that only the test sees, and of which it is made. What has a
            source of its own keeps to that too.
        disjoint: Give every split classes of its own, instead of files of its own.
        imitations: Last part of the name of classes that imitate the other class of their folder: with `forgery`, the
            files of `042/forgery` are near to those of `042/genuine`, and are never of them. Training sets both apart,
            and changes them alike; of what the other splits judge by, a quarter are pairs of both, and none is a pair
            of two imitations.
        labels: "positives" learns from the duplicates alone: pairs labelled 0 are left out of `train`, and of what is
            cut from it, and such pairs are mined. "all" takes the labels as they are.
        split: "time" cuts by date (of a forum folder): train on the past, test on the newest. "random" draws.
        seed: Seed of the cut.
    """

    train: str | list[str] = "sample:forum"
    validation: str | list[str] | None = None
    calibration: str | list[str] | None = None
    test: str | list[str] | None = None
    validation_share: float = 0.05
    calibration_share: float = 0.05
    test_share: float = 0.1
    columns: dict[str, str] | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    quoted: bool | None = None
    pairs: int | None = None
    more: list[str | SetConfig] | None = None
    unseen: list[str] | None = None
    disjoint: bool = False
    imitations: str | None = None
    labels: Literal["all", "positives"] = "all"
    split: Literal["random", "time"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        shares = [self.validation_share, self.calibration_share, self.test_share]
        if not (all(each >= 0 for each in shares) and sum(shares) < 1):
            raise ValueError(
                f"validation_share, calibration_share and test_share must be >= 0 and leave some, got {shares}"
            )


def check_data(config: DataConfig) -> None:
    """Check what can be said of the data before it is read.

    Raises:
        ConfigError: A key does not go with what `train` holds, or a file is not there.
    """
    if (modality := modality_of(config.train)) != "text":
        if (config.labels, config.split) != ("all", "random"):
            raise ConfigError(f"data.labels and data.split are for texts; {config.train} holds {NOUNS[modality]}")
    elif config.pairs is not None or config.unseen or config.disjoint or config.imitations is not None:
        keys = "data.pairs, .unseen, .disjoint and .imitations"
        raise ConfigError(f"{keys} are for labelled images and sounds; {config.train} has none")
    sources = {name: getattr(config, name) for name in ("validation", "calibration", "test")}
    for place, each in further_sets(config).items():
        sources[f"more.{place}"] = each.source
        if (other := modality_of(each.source)) != modality:
            both = f"one holds {NOUNS[other]}, the other {NOUNS[modality]}"
            raise ConfigError(f"data.more.{place}: {each.source} and {config.train}: {both}")
    for name, source in sources.items():
        for each in source if isinstance(source, list) else [source]:
            missing = each is not None and Path(each).suffix and Path(each).parent.is_dir() and not Path(each).exists()
            if missing and not glob.glob(str(each), recursive=True):
                raise ConfigError(f"data.{name}: {each}: no such file")


def further_sets(config: DataConfig) -> dict[int, SetConfig]:
    """Return the items of `data.more` that are sets of their own, by their places."""
    join = modality_of(config.train) != "text"
    given = [SetConfig(each) if isinstance(each, str) and not join else each for each in config.more or ()]
    return {place: each for place, each in enumerate(given) if isinstance(each, SetConfig)}


def build_sets(config: DataConfig, splits: Splits) -> list[ReadSet]:
    """Read the further sets of a run; they share no question with the held-out splits.

    Raises:
        DataError: A source cannot be read, or nothing of it is left.
    """
    held_out = (splits.validation, splits.calibration, splits.test)
    options = {"columns": config.columns, "on_bad_row": config.on_bad_row, "quoted": config.quoted}
    return [read_set(each, held_out, **options) for each in further_sets(config).values()]


def build_pairs(config: DataConfig) -> Splits:
    """Read the pairs of a run and cut the splits that have no source of their own.

    Raises:
        DataError: A source cannot be read.
        ConfigError: The calibration or test split would be empty, or there are duplicates alone and nothing says so.
    """
    names = ("validation", "calibration", "test")
    given = {name: source for name in names if (source := getattr(config, name)) is not None}
    shares = {name: 0.0 if name in given else getattr(config, f"{name}_share") for name in names}
    check_data(config)
    cut = (_cut_texts if modality_of(config.train) == "text" else _cut_files)(config, shares)
    own = {name: _read_split(config, name, source) for name, source in given.items()}
    splits = cut.replacing(**own) if own else cut
    for name in ("train", "calibration", "test"):
        if len(getattr(splits, name)) == 0:
            raise ConfigError(f"data.{name} is empty: give it a source, or a larger data.{name}_share")
    if config.labels == "all":
        return splits
    from textsiam.training.mining.positives_only import with_judged_negatives

    return with_judged_negatives(splits)


def _read(config: DataConfig, source: str | list[str]) -> Pairs:
    return read_pairs(source, columns=config.columns, on_bad_row=config.on_bad_row, quoted=config.quoted)


def _cut_texts(config: DataConfig, shares: dict[str, float]) -> Splits:
    """Cut the splits of texts: at random, or by date."""
    from textsiam.training.mining.positives_only import positives_alone

    pairs = _read(config, config.train)
    if config.labels == "positives":
        pairs = positives_alone(pairs)
    elif pairs.positives == len(pairs) and config.calibration is None:
        raise ConfigError(
            f"data.train: {config.train} holds duplicates alone: data.labels positives mines pairs to set them against"
        )
    if config.split == "random":
        return split_pairs(pairs, **shares, seed=config.seed)
    if not (isinstance(config.train, str) and is_forum(config.train)):
        raise ConfigError(f"data.split: time needs a forum folder, whose questions have dates; {config.train} is none")
    dates = dates_of_texts(config.train)
    return split_pairs_by_time(pairs, [dates[text] for text in pairs.texts], **shares)


def _cut_files(config: DataConfig, shares: dict[str, float]) -> Splits:
    """Cut the splits of labelled images or sounds."""
    sources = [str(config.train), *(each for each in config.more or () if isinstance(each, str))]
    medium = MEDIA[modality_of(config.train)]
    files, *more = (_labelled(config, source, medium) for source in sources)
    unseen = config.unseen
    if modality_of(config.test) != "text":  # it may be the only one that has them
        unseen = [name for name in unseen or () if any(each.has(name) for each in (files, *more))]
    drawn = {"pairs": config.pairs, "unseen": unseen, "disjoint": config.disjoint, "imitations": config.imitations}
    return split_labelled(files, more=more, **shares, **drawn, seed=config.seed)


def _labelled(config: DataConfig, source: str, medium: Medium) -> LabelledFiles:
    return read_labelled(source, medium, on_bad_row=config.on_bad_row, columns=config.columns)


def _read_split(config: DataConfig, name: str, source: str | list[str]) -> Pairs:
    """Read the pairs of a split that has a source of its own: the test of unseen classes, the others of seen ones."""
    medium = medium_of(source)
    if medium is None:
        return _read(config, source)
    kept = _labelled(config, str(source), medium)
    if config.unseen:
        if name == "test":
            kept.check_named(config.unseen)
        unseen = kept.named(config.unseen)
        kept = kept.select((unseen if name == "test" else ~unseen)[kept.classes])
        if most_pairs(kept) == 0:
            what = "only" if name == "test" else "without"
            raise ConfigError(f"data.{name}: {source} gives no pairs {what} the classes of data.unseen {config.unseen}")
    return draw_judged(kept, config.imitations)
