"""Makes the photographs of __test__/fixtures/photos from scikit-image's, one in every form that cameras and editors leave.

    python -m venv photos && photos/bin/pip install scikit-image pillow
    photos/bin/python tools/photo_fixtures.py __test__/fixtures/photos

Beside the photographs: `masks`, of what is in front; `sketches`, reference images of edit training, whose edges are drawn
from the photographs; `expected.json`, mean colours of the upright photographs as Pillow sees them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageFilter, ImageOps

OUT = Path(sys.argv[1])
DATA = Path(skimage.__file__).parent / "data"
# Longer side in pixels: enough for two resolutions of the embedded model.
SIDE = 160

CAPTIONS = {
    "astronaut": "portrait of an astronaut in an orange suit\nan astronaut smiling before a flag\n",
    "cat": "a photo of a cat with green eyes\n",
    "coffee": "a cup of coffee on a wooden table\n",
    "rocket": "a rocket on its launch pad at dusk\n",
    "cameraman": "a man behind a film camera\n",
    "galaxies": "distant galaxies in the night sky\n",
    "retina": "a retina, seen through the pupil\n",
}


# The upper part, so that what is turned is not square.
CROPPED = {"retina.jpg": (0, 0, 1411, 900)}


def photograph(name: str) -> Image.Image:
    image = Image.open(DATA / name).convert("RGB").crop(CROPPED.get(name))
    image.thumbnail((SIDE, SIDE), Image.LANCZOS)
    return image


def save_rotated(image: Image.Image, path: Path) -> None:
    """As a phone held upright writes it: lying, with the turn in the EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=85, exif=exif)


def save_16_bit(image: Image.Image, path: Path) -> None:
    grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(path)


def save_transparent(image: Image.Image, path: Path) -> None:
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 8, image.height))
    image.putalpha(alpha)
    image.save(path)


def save_avif(image: Image.Image, path: Path) -> None:
    """As a camera writes it: 4:2:0, turned by a box of the container."""
    exif = Image.Exif()
    exif[0x0112] = 8
    image.transpose(Image.Transpose.ROTATE_270).save(path, quality=80, subsampling="4:2:0", exif=exif)


def ellipse(size: tuple[int, int]) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    return Image.fromarray((255 * ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1)).astype(np.uint8))


def main() -> None:
    for folder in [OUT, OUT / "masks", OUT / "sketches"]:
        folder.mkdir(parents=True, exist_ok=True)
    sources = {
        "astronaut.jpg": ("astronaut.png", lambda image, path: image.save(path, quality=85)),
        "cat.jpg": ("chelsea.png", lambda image, path: image.convert("CMYK").save(path, quality=85)),
        "coffee.webp": ("coffee.png", lambda image, path: image.save(path, quality=85)),
        "rocket.jpeg": ("rocket.jpg", save_rotated),
        "cameraman.png": ("camera.png", save_16_bit),
        "galaxies.png": ("hubble_deep_field.jpg", save_transparent),
        "retina.avif": ("retina.jpg", save_avif),
    }
    expected = {}
    for name, (source, save) in sources.items():
        image, path = photograph(source), OUT / name
        save(image.copy(), path)
        stem = path.stem
        (OUT / f"{stem}.txt").write_text(CAPTIONS[stem])
        if stem in ("astronaut", "cat", "coffee"):
            ellipse(image.size).save(OUT / "masks" / f"{stem}.png")
        edges = ImageOps.invert(image.convert("L").filter(ImageFilter.FIND_EDGES))
        edges.quantize(8).save(OUT / "sketches" / f"{stem}.png", optimize=True)
        upright = ImageOps.exif_transpose(Image.open(path))
        if upright.mode == "RGBA":
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        mean = np.asarray(upright.convert("RGB"), dtype=np.float64).mean(axis=(0, 1))
        expected[name] = {"size": list(upright.size), "mean": [round(v, 2) for v in mean]}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


main()
