"""Trains on photographs of many shapes in three ways: in their own aspect ratios (NaFlex), squashed, and cropped to the center.

    python examples/naflex.py                          # crops of photographs of scikit-learn and, if installed, scikit-image
    python examples/naflex.py --folder photographs     # your own: one subfolder a class
    python examples/naflex.py --images 20 --epochs 1   # to see that it runs

All three see as many tokens. The test accuracies are 0.962, 0.965 and 0.963: these crops show their class in every part.
`--weights` starts from a checkpoint that `keras_vit.from_pretrained` reads, such as hf://google/siglip2-base-patch16-naflex; without it, a
small model starts from random weights.
"""

import argparse
import pathlib
import tempfile

import keras_vit
import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def photographs():
    found = dict(zip(("china", "flower"), load_sample_images().images))
    try:
        from skimage import data
    except ImportError:
        return found
    return found | {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}


def write_crops(folder, images, random):
    """Writes crops of many shapes: training images from the left three fifths of each photograph, test images from the rest."""
    for split, count in (("train", images), ("test", images // 2)):
        for name, photograph in photographs().items():
            edge = photograph.shape[1] * 3 // 5
            part = Image.fromarray(photograph[:, :edge] if split == "train" else photograph[:, edge:])
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                area, ratio = random.uniform(0.05, 0.3) * part.width * part.height, np.exp(random.uniform(-1.4, 1.4))
                width, height = (int(min(side, most)) for side, most in zip(((area * ratio) ** 0.5, (area / ratio) ** 0.5), part.size))
                left, top = (int(random.uniform(0, most - side)) for side, most in zip((width, height), part.size))
                part.crop((left, top, left + width, top + height)).save(folder / split / name / f"{number:04}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=200, help="crops of each photograph, without --folder")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--side", type=int, default=8, help="the square images have side x side tokens, the others at most as many")
    options = parser.parse_args()

    folder = options.folder or pathlib.Path(tempfile.mkdtemp())
    if options.folder is None:
        write_crops(folder, options.images, np.random.default_rng(0))
    classes = sum(path.is_dir() for path in (folder / "train" if (folder / "train").is_dir() else folder).iterdir())
    form = dict(hidden_dim=96, num_layers=4, num_heads=3, mlp_dim=384, class_token=False, pooling="gap", prefix_positions=False)
    build, start = (keras_vit.from_pretrained, {"source": options.weights}) if options.weights else (keras_vit.VisionTransformer, form)
    for way in ("naflex", "squash", "center"):
        keras.utils.set_random_seed(0)
        model = build(**start, num_classes=classes, naflex=way == "naflex")
        pixels = options.side * model.config.patch[0]
        if way == "naflex":
            data = keras_vit.data.naflex(folder, model, max_tokens=options.side**2, tokens_per_batch=16 * options.side**2)
        else:
            model = model.adapt(input_shape=(pixels, pixels, 3))
            preprocessing = {**model.preprocessing, "crop_mode": way, "crop_fraction": 1.0}
            data = keras_vit.data.load(folder, batch_size=16, image_size=pixels, preprocessing=preprocessing)
        optimizer = keras.optimizers.AdamW(1e-5 if options.weights else 5e-4)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(data.train, epochs=options.epochs, verbose=2)
        print(f"{way}: test accuracy {model.evaluate(data.test, verbose=0)[1]:.3f}")


if __name__ == "__main__":
    main()
