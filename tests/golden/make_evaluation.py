"""Makes evaluation.npz: what timm's evaluation transform, on torchvision's, makes of small pictures. Needs timm and torchvision.

python tests/golden/make_evaluation.py
"""

import json
import pathlib

import numpy as np
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

HERE = pathlib.Path(__file__).parent
# Sides of the picture (rows, columns), and the arguments of timm's transform.
CASES = [
    ((47, 61), dict(img_size=32, crop_pct=0.875, crop_mode="center", interpolation="bicubic")),
    ((61, 47), dict(img_size=32, crop_pct=0.9, crop_mode="center", interpolation="bicubic")),
    ((30, 83), dict(img_size=32, crop_pct=0.95, crop_mode="center", interpolation="bilinear")),
    ((20, 20), dict(img_size=32, crop_pct=1.0, crop_mode="center", interpolation="bicubic")),
    ((90, 51), dict(img_size=32, crop_pct=1.0, crop_mode="squash", interpolation="bicubic")),
    ((51, 90), dict(img_size=32, crop_pct=0.9, crop_mode="squash", interpolation="bilinear")),
    ((70, 60), dict(img_size=(32, 48), crop_pct=0.9, crop_mode="center", interpolation="bicubic")),
    ((40, 99), dict(img_size=(48, 32), crop_pct=0.875, crop_mode="center", interpolation="lanczos")),
]


def main():
    random, arrays = np.random.default_rng(0), {"cases": np.array(json.dumps([case for _, case in CASES]))}
    for number, ((rows, columns), case) in enumerate(CASES):
        coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype="uint8"))
        picture = np.asarray(coarse.resize((columns, rows), Image.Resampling.BICUBIC)).copy()
        picture += random.integers(0, 20, picture.shape, dtype="uint8")  # also over the edge: sharp steps
        arrays[f"picture_{number}"] = picture
        transformed = transforms_imagenet_eval(**case, normalize=False)(Image.fromarray(picture))
        arrays[f"transformed_{number}"] = np.moveaxis(np.asarray(transformed), 0, -1)
    np.savez_compressed(HERE / "evaluation.npz", **arrays)


if __name__ == "__main__":
    main()
