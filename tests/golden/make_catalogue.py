"""Makes catalogue.json: what timm says of the weights in our catalogue. Needs timm, and results/results-imagenet.csv of its repository.

python tests/golden/make_catalogue.py results-imagenet.csv
"""

import csv
import json
import pathlib
import sys

import timm
import torch
from timm.models import get_pretrained_cfg

from keras_vit.checkpoints.catalogue import TIMM

HERE = pathlib.Path(__file__).parent


def main(results):
    with open(results, newline="") as file:
        top1 = {row["model"]: float(row["top1"]) for row in csv.DictReader(file)}
    found = {}
    for name in (row[1] for row in TIMM):
        trained = get_pretrained_cfg(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in timm.create_model(name).parameters())
        found[name] = dict(
            resolution=trained.input_size[-1],
            classes=trained.num_classes,
            top1=top1.get(name),
            parameters=parameters,
            licence=trained.license,
            mean=trained.mean,
            std=trained.std,
            interpolation=trained.interpolation,
            crop_fraction=trained.crop_pct,
            crop_mode=trained.crop_mode,
        )
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in found.items())
    (HERE / "catalogue.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(sys.argv[1])
