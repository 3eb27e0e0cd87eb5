"""Searches with Keras Tuner for the size, learning rate and augmentation of a model within a budget. The same command resumes.

    pip install ".[demo,tune]"
    python examples/tuner.py --output studies/digits                 # --quick: to see that it runs
    python examples/tuner.py --data PETS --parameters 6_000_000 --epochs 27 --trials 40 --output studies/pets

`keras-vit tune` does the same for the spaces of the package.
"""

import argparse
import dataclasses

from keras_vit.training import RECIPES
from keras_vit.tuning import Search, ViTHyperModel, read_trials, write_report

SPACE = {  # a tuple is a choice, a dict a range
    "hidden_dim": (48, 96, 192),
    "num_layers": (3, 6),
    "num_heads": (3, 4, 6),
    "learning_rate": {"low": 5e-4, "high": 5e-3, "log": True},
    "augmentation": ("none", "digits"),
    "mixup": (0.0, 0.2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, help="training images")
    parser.add_argument("--parameters", type=int, default=500_000, help="the most that a model may have")
    parser.add_argument("--epochs", type=int, default=9, help="of those trials that Hyperband lets run to their end")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--output", required=True)
    parser.add_argument("--quick", action="store_true", help="two trials of one epoch on 64 images")
    options = parser.parse_args()
    if options.quick:
        options.images, options.epochs, options.trials = 64, 1, 2

    recipe = dataclasses.replace(RECIPES["small_data"], epochs=options.epochs, warmup_epochs=1)
    hypermodel = ViTHyperModel(options.data, SPACE, "ViTMicro4", recipe, max_parameters=options.parameters, train_images=options.images)
    search = Search(hypermodel, options.output, "hyperband", options.trials)
    search.search()
    best = read_trials(options.output)[0]
    print(f"best: {100 * best.score:.1f} % of the validation images with {best.values}")
    print(write_report(options.output)["Report"])


if __name__ == "__main__":
    main()
