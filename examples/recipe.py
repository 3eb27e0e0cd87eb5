"""Trains by a recipe in plain Keras, with the same steps as `keras-vit train`. The same command resumes an interrupted run.

    python examples/recipe.py --weights hf://timm/vit_small_patch14_dinov2.lvd142m --recipe lora --side 56 --images 500 --output runs/lora
    python examples/recipe.py --data PETS --weights augreg_in21k --recipe finetune --output runs/pets

`--data` is any source of keras_vit.data.load. `--weights` is a tag of ViTB16 or anything that from_pretrained reads.
"""

import argparse
import pathlib

import keras_vit
import keras
from keras_vit.data import load
from keras_vit.training import RECIPES, Checkpoints, evaluate_predictions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--recipe", default="finetune", choices=RECIPES, metavar="NAME", help="see keras-vit list --recipes")
    parser.add_argument("--side", type=int, default=224, help="pixels; positions are resampled to it")
    parser.add_argument("--images", type=int, default=None, help="training images")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    recipe = RECIPES[options.recipe]
    data = load(
        options.data,
        batch_size=recipe.batch_size,
        augmentation=recipe.augmentation,
        image_size=options.side,
        train_images=options.images,
    )
    if options.weights in [row.tag for row in keras_vit.list_weights("ViTB16")]:
        model = keras_vit.ViTB16(weights=options.weights)
    else:
        model = keras_vit.from_pretrained(options.weights)
    model = recipe.build(model, num_classes=len(data.class_names), input_shape=data.image_shape)

    for number, phase in enumerate(recipe.phases()):
        phase.compile(model, data.steps_per_epoch)
        trained = sum(v.value.shape.num_elements() for v in model.trainable_variables)
        print(f"phase {number + 1}: {trained:,} of {model.count_params():,} weights are trained")
        epochs, steps = phase.length(data.steps_per_epoch)
        checkpoints = Checkpoints(options.output / f"checkpoints_{number + 1}")
        model.fit(
            checkpoints.resume(data.train_from),
            steps_per_epoch=steps,
            epochs=epochs,
            validation_data=data.validation,
            callbacks=[checkpoints],
            shuffle=False,
            verbose=2,
        )
    model = model.adapt()  # merges LoRA; of another recipe it is a copy
    model.save(options.output / "model.keras")
    test = list(data.test.unbatch().batch(32))
    probabilities = keras.ops.concatenate([model(images, training=False) for images, _ in test])
    labels = keras.ops.concatenate([labels if labels.ndim == 1 else keras.ops.argmax(labels, axis=-1) for _, labels in test])
    result = evaluate_predictions(probabilities, labels, data.class_names)
    split = "validation" if data.test is data.validation else "test"
    print(
        f"{split} accuracy {result['accuracy']:.4f}, calibration error {result['calibration_error']:.4f}: {options.output / 'model.keras'}"
    )


if __name__ == "__main__":
    main()
