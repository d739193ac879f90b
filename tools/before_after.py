#!/usr/bin/env python3
"""Puts a run's sample images before and after training into one picture: the one in the README.

Needs pillow.   Usage: before_after.py RUN_DIR OUT.png
"""
import argparse, pathlib
from PIL import Image

GAP, ZOOM = 8, 2


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("run", type=pathlib.Path)
    ap.add_argument("out", type=pathlib.Path)
    a = ap.parse_args()
    steps = sorted({p.name.split("-")[1] for p in (a.run / "samples").glob("step-*.png")})
    rows = [sorted((a.run / "samples").glob(f"step-{s}-*.png")) for s in (steps[0], steps[-1])]
    images = [[Image.open(p).convert("RGB") for p in row] for row in rows]
    side = images[0][0].width + GAP
    sheet = Image.new("RGB", (side * len(images[0]) + GAP, side * len(images) + GAP), "white")
    for y, row in enumerate(images):
        for x, image in enumerate(row):
            sheet.paste(image, (GAP + x * side, GAP + y * side))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.LANCZOS).save(a.out, optimize=True)


if __name__ == "__main__":
    main()
