"""The original Transformer and ViT: each part that differs is an argument of the layers, and is exchanged alone on Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python examples/comparisons/transformer_parts.py             # one and a half hours on one core
    python examples/comparisons/transformer_parts.py --figure    # from the CSV file, without training

All runs have the same images, steps and learning rate (that of the plain ViT in cnn_vit_hybrid.py), but for those at the high rate.
"""

import keras_vit
from matplotlib import pyplot
from runs import CONV_STEM, VIT, Results, accuracy, arguments, data, fresh, markdown, mean_error, save, shown, train

STEPS, RATE, HIGH_RATE = 1500, 3e-3, 1e-2
FIELDS = ("switch", "seed", "rate", "steps", "train", "test", "seconds")
PARTS = [  # part, original Transformer, ViT, argument
    ("stacks", "encoder and decoder", "encoder only", "`TransformerEncoderBlock`, `num_layers`; there is no decoder"),
    (
        "input",
        "token embedding: a row of a table",
        "patch embedding: a matrix product",
        "`patch_size`; a table is `keras.layers.Embedding`",
    ),
    ("normalization", "after the sum (post-norm)", "before the branch (pre-norm)", "`norm_first`"),
    ("positions", "sines and cosines of the place", "learned", '`position_embedding="sincos1d"`, `"learned"`'),
    ("activation", "ReLU", "GELU", '`activation="relu"`, `"gelu"`'),
    ("what the head reads", "every token", "class token", '`pooling=None`, `"token"`, `"gap"`, `"map"`'),
    ("last normalization", "none", "after the last block", "`final_norm`"),
]
WARMUP = 0.1
ORIGINAL = dict(norm_first=False, final_norm=False)
# Name: arguments of the model, and the share of the steps in which the learning rate rises.
SWITCHES = {
    "ViT": ({}, WARMUP),
    "no warm-up": ({}, 0.0),
    "post-norm": (ORIGINAL, WARMUP),
    "post-norm, no warm-up": (ORIGINAL, 0.0),
    "sinusoidal positions": (dict(position_embedding="sincos1d"), WARMUP),
    "2-D sinusoidal positions": (dict(position_embedding="sincos2d"), WARMUP),
    "no positions": (dict(position_embedding="none"), WARMUP),
    "mean of the patches": (dict(pooling="gap", class_token=False), WARMUP),
    "attention pooling (MAP)": (dict(pooling="map", class_token=False), WARMUP),
    "ReLU": (dict(activation="relu"), WARMUP),
    "convolutional stem": (CONV_STEM, WARMUP),
    "encoder of the original": (dict(**ORIGINAL, position_embedding="sincos1d", activation="relu"), WARMUP),
}
FAST = ("ViT", "no warm-up", "post-norm", "post-norm, no warm-up")  # also at the high learning rate


def measure(options, results):
    runs = [(switch, RATE) for switch in options.switches]
    runs += [] if options.quick else [(switch, HIGH_RATE) for switch in FAST]
    for seed in range(options.seeds):
        for switch, rate in runs:

            def result(switch=switch, rate=rate, seed=seed):
                changes, warmup = SWITCHES[switch]
                model = fresh(changes, lambda: keras_vit.VisionTransformer(**VIT | changes))
                batches = data(options.quick, seed=seed)
                found = train(model, batches.train_from(0), options.steps, rate, warmup)
                return found | {"test": accuracy(model, batches.test)}

            results.once(result, switch=switch, seed=seed, rate=rate, steps=options.steps)


def differences(results, switch, rate):
    """Returns the accuracies of a switch, and their differences from ViT's with the same seed and rate, in percent."""
    vit = {row["seed"]: row["test"] for row in results.find(switch="ViT", rate=rate)}
    rows = results.find(switch=switch, rate=rate)
    return [100 * row["test"] for row in rows], [100 * (row["test"] - vit[row["seed"]]) for row in rows if row["seed"] in vit]


def settings(results):
    return list(dict.fromkeys((row["switch"], row["rate"]) for row in sorted(results.rows, key=lambda row: row["rate"])))


def table(results):
    print(markdown(["part", "original Transformer", "ViT", "here"], PARTS))
    rows = []
    for switch, rate in settings(results):
        found, change = differences(results, switch, rate)
        macs = keras_vit.cost(VIT | SWITCHES[switch][0]).macs / 1e6
        rows.append([switch, rate, f"{macs:.1f}", len(found), shown(found, 1), shown(change, 1, 2) if switch != "ViT" else ""])
    print()
    print(markdown(["switch", "learning rate", "million MACs", "seeds", "test accuracy, %", "difference from ViT, points"], rows))


def draw(options, results):
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    names = []
    for switch, rate in settings(results):
        if switch != "ViT":
            mean, error = mean_error(differences(results, switch, rate)[1])
            axes.errorbar(mean, len(names), xerr=error, marker="o", color="#1f6fb4" if rate == RATE else "#d1495b", capsize=3)
            names.append(switch if rate == RATE else f"{switch}, rate {rate:g}")
    axes.axvline(0.0, color="black", linewidth=1.0)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="Test accuracy, difference from ViT (points)")
    axes.invert_yaxis()
    save(figure, options.file("transformer_parts", "png"))


def main():
    options = arguments(__doc__)
    options.steps = 4 if options.quick else options.steps or STEPS
    options.switches = ["ViT", "encoder of the original"] if options.quick else list(SWITCHES)
    results = Results(options.file("transformer_parts"), FIELDS)
    if not options.figure:
        measure(options, results)
    table(results)
    draw(options, results)


if __name__ == "__main__":
    main()
