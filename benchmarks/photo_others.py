"""What benchmarks/photos.py runs in an environment with imagededup and imagehash: their search, and their hashes.

PYTHON benchmarks/photo_others.py search VECTORS.npy 0.95 1
PYTHON benchmarks/photo_others.py hash CODES.npy < NAMES
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np


def used(who=resource.RUSAGE_SELF):
    """Return the seconds that processors worked, and the peak of memory in MB."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def timed(work):
    """Run something, and return the seconds that it took and what it found."""
    begun, worked = time.perf_counter(), used()[0] + used(resource.RUSAGE_CHILDREN)[0]
    pairs = work()
    cpu = used()[0] + used(resource.RUSAGE_CHILDREN)[0] - worked
    return {"wall": time.perf_counter() - begun, "cpu": cpu, "pairs": pairs, "peak_mb": used()[1]}


def search(file, threshold, scores):
    """Find all pairs as imagededup does, whose model is never asked."""
    import torch
    from imagededup.methods import CNN
    from imagededup.utils import CustomModel

    kept = CustomModel(name="vectors", model=torch.nn.Identity(), transform=lambda image: image)
    cnn, vectors = CNN(verbose=False, model_config=kept), np.load(file)
    named = {f"{row:06d}.jpg": vector for row, vector in enumerate(vectors)}
    how = {"min_similarity_threshold": float(threshold), "scores": bool(int(scores))}
    return timed(lambda: sum(map(len, cnn.find_duplicates(encoding_map=named, **how).values())) // 2)


def hashed(output):
    """Write the perceptual hashes of the pictures that standard input names: 64 bits each."""
    import imagehash
    from PIL import Image

    codes = [imagehash.phash(Image.open(name)).hash for name in sys.stdin.read().splitlines()]
    np.save(output, np.packbits(np.array(codes).reshape(len(codes), 64), axis=1).view(np.uint64)[:, 0])


if __name__ == "__main__":
    if sys.argv[1] == "hash":
        hashed(sys.argv[2])
    else:
        print(json.dumps(search(*sys.argv[2:])))
