"""A Transformer encoder for text from the blocks of our Vision Transformers: which module of Python do 64 characters come from?

    pip install ".[demo]"
    python examples/text.py                          # --quick: to see that it runs

Beside it are two baselines, which do not know the order of characters: logistic regression on their counts (scikit-learn), and the same
Transformer without position embeddings.
"""

import argparse
import pathlib

import keras_vit
import keras
import numpy as np
from sklearn.linear_model import LogisticRegression

MODULES = ("argparse", "tarfile", "turtle", "typing")
LENGTH = 64


def windows(modules, stride):
    """Returns (train, test), each (characters, modules). Every fifth piece of 1,024 characters is for the test."""
    folder = pathlib.Path(argparse.__file__).parent
    found = {True: ([], []), False: ([], [])}
    for label, name in enumerate(modules):
        text = np.frombuffer((folder / f"{name}.py").read_bytes(), "uint8") & 127
        for number, start in enumerate(range(0, 80 * 1024, 1024)):  # as much of each module
            test = number % 5 == 4
            pieces = np.lib.stride_tricks.sliding_window_view(text[start : start + 1024], LENGTH)[:: LENGTH if test else stride]
            found[test][0].append(pieces)
            found[test][1].append(np.full(len(pieces), label))
    return tuple(tuple(map(np.concatenate, found[test])) for test in (False, True))


def transformer(classes, num_layers, positions):
    characters = keras.Input((LENGTH,), dtype="uint8")
    x = keras.layers.Embedding(128, 64)(characters)
    if positions:
        x = keras_vit.layers.PositionEmbedding()(x, patches=x[:, None])  # a text is a grid of one row
    for _ in range(num_layers):
        x = keras_vit.layers.TransformerEncoderBlock(num_heads=4, mlp_dim=128, dropout_rate=0.1)(x)
    x = keras.layers.GlobalAveragePooling1D()(keras_vit.layers.LayerNormalization()(x))
    return keras.Model(characters, keras.layers.Dense(classes, "softmax")(x))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one layer, one epoch, two modules")
    options = parser.parse_args()
    modules, stride, layers, epochs = (MODULES[:2], 64, 1, 1) if options.quick else (MODULES, 32, 2, options.epochs)

    (text, labels), (test, test_labels) = windows(modules, stride)
    print(f"{len(text):,} training and {len(test):,} test windows of {LENGTH} characters from {len(modules)} modules")
    counts, test_counts = (np.stack([np.bincount(row, minlength=128) for row in rows]) ** 0.5 for rows in (text, test))
    print(f"bag of characters: test accuracy {LogisticRegression(max_iter=2000).fit(counts, labels).score(test_counts, test_labels):.3f}")
    for name, positions in (("Transformer", True), ("Transformer without positions", False)):
        keras.utils.set_random_seed(0)
        model = transformer(len(modules), layers, positions)
        schedule = keras.optimizers.schedules.CosineDecay(0.0, epochs * len(text) // 64, warmup_target=2e-3, warmup_steps=100)
        model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(text, labels, batch_size=64, epochs=epochs, verbose=0)
        accuracy = model.evaluate(test, test_labels, verbose=0)[1]
        print(f"{name}: {model.count_params():,} parameters, test accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
