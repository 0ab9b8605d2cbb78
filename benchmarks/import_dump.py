"""Import of a large Stack Exchange dump on one core: MB/s and peak memory.

    python benchmarks/import_dump.py                       # 5 million posts, 8 GB under the temporary folder
    python benchmarks/import_dump.py --posts 200000        # a quick look

The dump repeats the three small ones of $TEXTSIAM_DATA/stackexchange, each time under new Ids; it is deleted at the
end. The import is a process of its own, bound to one core, with the file in the page cache as far as memory allows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quality import DATA, facts

DUMPS = DATA.parent / "stackexchange"
RESULTS = Path(__file__).parent / "results" / "import_dump.json"
_NUMBER = {"Posts.xml": re.compile(r' (Id)="(\d+)"'), "PostLinks.xml": re.compile(r' (PostId|RelatedPostId)="(\d+)"')}


def make_dump(folder, posts):
    """Write Posts.xml and PostLinks.xml with at least so many posts; returns how many."""
    made = 0
    for name, root in (("Posts.xml", "posts"), ("PostLinks.xml", "postlinks")):
        rows = []
        for number, dump in enumerate(sorted(DUMPS.iterdir())):
            lines = (dump / name).read_text(encoding="utf-8-sig").splitlines()
            rows += [(number * 10_000, line) for line in lines if line.lstrip().startswith("<row ")]
        if name == "Posts.xml":
            times = -(-posts // len(rows))
            made = times * len(rows)
        with (folder / name).open("w", encoding="utf-8") as file:
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>\n')
            for repeat in range(times):
                shift = repeat * 10_000 * 3
                for own, line in rows:
                    file.write(
                        _NUMBER[name].sub(lambda at, by=shift + own: f' {at[1]}="{int(at[2]) + by}"', line) + "\n"
                    )
            file.write(f"</{root}>\n")
    return made


def child(dump, output):
    """Import, bound to one core, and print what it took."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from textsiam.forums.stackexchange import import_stackexchange

    start, used = time.perf_counter(), time.process_time()
    found = import_stackexchange(dump, output)
    row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    size = sum(found["source"]["files"].values())
    row |= {"bytes": size, "mb_per_s": size / 1e6 / row["seconds"], "mb_per_cpu_s": size / 1e6 / row["cpu_seconds"]}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    row |= {"questions": found["questions"], "links": found["links"], "left_out": found["left_out"]}
    print(json.dumps(row))


def main():
    """Make the dump, import it, delete it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=5_000_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory(prefix="textsiam-dump-") as made:
        folder = Path(made, "dump")
        folder.mkdir()
        posts = make_dump(folder, options.posts)
        command = [sys.executable, __file__, "--child", str(folder), str(Path(made, "forum"))]
        row = {"posts": posts, **json.loads(subprocess.check_output(command)), **facts()}
    options.results.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
