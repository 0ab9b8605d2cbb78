"""What a job in partitions found, block by block, and the second look that its pairs are given where it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.pair_files import stream_found, write_found
from textsiam.search.join.sorted_pairs import Blocks
from textsiam.search.join.stages import Joining, opened


@dataclass(frozen=True)
class Rescoring(Joining):
    """The stage that gives the pairs of `Joining` a second look: `rescored-0.8/00002-00007.parquet`."""

    def file(self, item: str) -> Path:
        """Return the file of the pairs."""
        return Path(self.job.folder) / f"rescored-{self.threshold!r}" / f"{item}.parquet"

    def __call__(self, item: str) -> None:
        """Ask the reranker of the model about the pairs of two partitions."""
        one, other = map(int, item.split("-"))
        twin, starts, height = opened(self.job.model, self.job.fingerprint), self.job.partitions, self.job.size(one)
        texts = [text for number in sorted({one, other}) for text in self.job.read_texts(number)]
        shift = 0 if one == other else height

        def rescored() -> Iterator[FoundPairs]:
            for left, right, similarity in stream_found(Joining.file(self, item)):
                places = left - starts[one], right - starts[other] + shift
                yield FoundPairs(left, right, twin.rescore(texts, *places, similarity))

        write_found(self.file(item), rescored())


def found_by(stage: Joining) -> Blocks:
    """Return the pairs of all items of a stage, block by block, in no particular order."""
    return Blocks(lambda: (block for item in stage.items() for block in stream_found(stage.file(item))))
