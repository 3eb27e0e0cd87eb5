"""`keras-vit train`: a run in a folder, from the data to the report; it can be stopped, and gone on with."""

import contextlib
import csv
import importlib.util
import io
import json
import pathlib
import shlex
import signal
import sys
from typing import Annotated

import typer

from keras_vit_cli.configs import CONFIG, complete, parse_options, read_config, write_config
from keras_vit_cli.console import quiet
from keras_vit_cli.models import SOURCES, open_model

CHECKPOINTS = "checkpoints"


def train(
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the run: a new or an empty one, or with --resume that of a run.")],
    data: Annotated[str, typer.Option(help="digits, fashion_mnist, tfds:NAME, or a folder with a folder of images for each class.")] = None,
    data_option: Annotated[list[str], typer.Option(help="NAME=VALUE for the data source, such as data_dir=sets; repeatable.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read, in place of skipping it.")] = None,
    train_images: Annotated[int, typer.Option(min=1, help="Train on so many images. [default: all]")] = None,
    model: Annotated[str, typer.Option(help="Preset, see `keras-vit list`. [default: that of the weights, or ViTMicro4]")] = None,
    weights: Annotated[str, typer.Option(help=f"Begin with them: a tag of the preset; or {SOURCES}.")] = None,
    teacher: Annotated[str, typer.Option(help="Distil into the distillation token from this model; sources as for --weights.")] = None,
    recipe: Annotated[str, typer.Option(help="How to train, see `keras-vit list --recipes`. [default: small_data]")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images. [default: the recipe's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step. [default: the recipe's]")] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate. [default: the recipe's]")] = None,
    augmentation: Annotated[str, typer.Option(help="Augmentation of the training images. [default: the recipe's]")] = None,
    drop_path_rate: Annotated[float, typer.Option(help="Stochastic depth. [default: the recipe's]")] = None,
    image_size: Annotated[
        int, typer.Option(min=1, help="Side to resize images to, in pixels. [default: the source's, or the model's]")
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Compute in bfloat16.")] = None,
    jit_compile: Annotated[bool, typer.Option(help="Compile with XLA, or do not. [default: where it is supported]")] = None,
    accumulation_steps: Annotated[int, typer.Option(min=1, help="Compute a batch in so many parts, for it to fit into memory.")] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, one_device, mirrored: all GPUs, multi_worker: all machines, tpu; on JAX also fsdp, tensor_parallel.")
    ] = None,
    devices: Annotated[str, typer.Option(help="cpu:N: N virtual devices, to try --strategy.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run. [default: 0]")] = None,
    config: Annotated[pathlib.Path, typer.Option(help="Begin with the settings in this TOML file, such as another run's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints. [default: those of 10 minutes, or an epoch]")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write logs for TensorBoard, too.")] = False,
    show_batch: Annotated[
        bool, typer.Option("--show-batch", help="Write the first batch as a picture, batch.png, and do not train.")
    ] = False,
):
    """Trains a model.

    Writes the model, its history and a report with pictures into a folder, and the config that repeats the run. Whatever stops it, Ctrl-C,
    a signal or a crash of the machine: --resume goes on with it, and it ends with the same model as one that was not stopped.
    """
    options = parse_options(data_option) | ({"strict": True} if strict else {})
    others = ("output", "resume", "save_every", "tensorboard", "show_batch", "config", "data_option", "strict")
    given = {name: value for name, value in locals().items() if name not in (*others, "options", "others") and value is not None}
    given |= {"data_options": options} if options else {}
    config = config_of_old(output, given) if resume else config_of_new(output, given, config)
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("`--tensorboard` needs TensorBoard: pip install tensorboard")
    run = Run(output, config)
    if show_batch:
        run.show_batch()
    else:
        run.train(save_every, tensorboard)


def config_of_new(output, given, path):
    """Returns the config of a new run: that in the file, what the user gave, and the defaults of the rest."""
    if output.exists() and (not output.is_dir() or any(output.glob("[!.]*"))):  # what a killed run left unfinished is hidden
        raise ValueError(f"`--output` must be a new or an empty folder; with --resume a run that is there goes on. Received: {output}")
    config = complete(read_config(path) if path else {}, given)
    if "data" not in config:
        raise ValueError("`--data` is missing: name a data source, such as digits")
    return config


def config_of_old(output, given):
    """Returns the config of the run in `output`, once what the user gave agrees with it."""
    try:
        config = read_config(output / CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"There is no run to resume in `--output`. Received: {output}") from None
    settings = config | config["training"]
    for name, value in given.items():
        if value != settings.get(name):
            option, was = "--" + name.replace("_", "-"), settings.get(name, "not given")
            raise ValueError(f"A run keeps its settings, and this one was begun with {option} {was}. Received: {option} {value}")
    return config


class Run:
    """A run: its data, model and recipe, as its config says.

    Args:
        output: path of its folder.
        config: dict, as `configs.complete` gives it.
    """

    def __init__(self, output, config):
        # Outside `fit`, which saves first, there is nothing to save.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with quiet():
            import keras

            from keras_vit.runtime.replicas import processes
            from keras_vit.training import Distillation, Recipe, check_batch, virtual_devices

            if "devices" in config:
                virtual_devices(config["devices"])
        self._choose_devices(config)
        keras.utils.set_random_seed(config["seed"])
        self.output, self.config, self.recipe = output, config, Recipe(**config["training"])
        self.parts = config.get("accumulation_steps", 1)
        self.number, self.count = processes()
        if self.replicas > 1:
            check_batch(self.recipe.batch_size, self.replicas)
        with self._scope():
            base = self._pretrained()
            self.data = self._load_data(base)
            self.model = self.trainer = self._build_model(base)
            if "teacher" in config:
                self.trainer = Distillation(self.model, open_model(config["teacher"]))
        self.name = config.get("model") or config["weights"]

    def _choose_devices(self, config):
        import keras

        self.strategy, self.replicas, self.said = None, 1, io.StringIO()
        if keras.backend.backend() == "torch" and "strategy" not in config:
            return
        from keras_vit.training import count_replicas, strategy

        with contextlib.redirect_stderr(self.said):  # until nothing is wrong with the rest
            chosen = strategy(config.get("strategy", "auto"))
        self.replicas = count_replicas(chosen)
        if self.replicas > 1 or (keras.backend.backend() == "jax" and "strategy" in config):
            self.strategy = chosen

    def _scope(self):
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def _pretrained(self):
        """Returns the model to begin with, or None."""
        weights = self.config.get("weights")
        if weights is None:
            return None
        return open_model(self.config["model"], weights) if "model" in self.config else open_model(weights)

    def _load_data(self, base):
        from keras_vit.data import SOURCES, load
        from keras_vit.presets import preset

        config, size = self.config, self.config.get("image_size")
        if size is None and (base is not None or config["data"] not in SOURCES):  # whose images have a size of their own
            size = (base.input_shape[1] or 224) if base is not None else preset(config["model"]).get("input_shape", (224,))[0]
        options = config.get("data_options", {}) | ({} if size is None else {"image_size": size})
        return load(
            config["data"],
            batch_size=self.recipe.batch_size,
            part=(self.number, self.count),
            augmentation=self.recipe.augmentation,
            seed=config["seed"],
            preprocessing=None if base is None else base.preprocessing,
            train_images=config.get("train_images"),
            **options,
        )

    def _build_model(self, base):
        from keras_vit import zoo
        from keras_vit.cost import arguments as known_arguments

        architecture = self.config.get("architecture", {})
        if base is None:
            known_arguments(self.config["model"], **architecture)  # refuses what is no argument
        arguments = architecture | dict(
            num_classes=len(self.data.class_names),
            input_shape=self.data.image_shape,
            dropout_rate=self.recipe.dropout_rate,
            drop_path_rate=self.recipe.drop_path_rate,
            patch_dropout_rate=self.recipe.patch_dropout_rate,
            classifier_activation=self.recipe.loss,
        )
        if self.config.get("mixed_precision"):
            arguments["dtype"] = "mixed_bfloat16"
        return zoo.create(self.config["model"], **arguments) if base is None else base.adapt(**arguments)

    def show_batch(self):
        """Writes the first augmented batch as a picture."""
        from keras_vit.data import show_batch

        self.output.mkdir(parents=True, exist_ok=True)
        print(show_batch(self.data, self.output / "batch.png"))

    def train(self, save_every=None, tensorboard=False):
        """Trains from the newest checkpoint, or from the beginning, and writes the results."""
        from keras_vit.runtime.replicas import check_agreement
        from keras_vit.training import Checkpoints

        history, phases, checkpoints = [], self.recipe.phases(), None
        try:
            with self._scope():
                for number, phase in enumerate(phases, start=1):
                    self._compile(phase)
                    if number == 1:
                        self._begin()
                    folder = CHECKPOINTS if number == len(phases) else f"{CHECKPOINTS}_{number}"
                    checkpoints = Checkpoints(self.output / folder, every_steps=save_every)
                    self._fit(phase, checkpoints, history, tensorboard)
                    history = numbered(history, checkpoints.history)
            if self.number == 0:
                write_results(self, history)
            check_agreement({"end": len(history)})  # the others stay until the first, which leads them, has written
        except FloatingPointError as error:
            raise ValueError(error) from None
        except (KeyboardInterrupt, SystemExit) as stop:
            if checkpoints:
                command = shlex.join(["keras-vit", "train", "--output", str(self.output), "--resume"])
                steps = f" and {checkpoints.done} steps" if checkpoints.done else ""
                print(flush=True)  # ends the line of the progress bar
                where = f"epoch {checkpoints.epoch} of {phase.length(self.data.steps_per_epoch)[0]}{steps}"
                print(f"keras-vit: stopped after {where}; go on with: {command}", file=sys.stderr)
            raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 0) from None
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and type(error).__name__ != "ResourceExhaustedError":
                raise
            images = -(-self.recipe.batch_size // (self.replicas * self.parts))
            raise ValueError(
                f"The device's memory does not hold {images} images at once: try --accumulation-steps "
                f"{2 * self.parts}, which computes the same steps in smaller parts, or --mixed-precision"
            ) from None

    def _compile(self, phase):
        from keras_vit.training import accelerated, check_memory

        options = {"jit_compile": self.config["jit_compile"]} if "jit_compile" in self.config else {}
        phase.compile(self.trainer, self.data.steps_per_epoch, self.parts, **options)
        if not accelerated():
            check_memory(self.model, -(-phase.batch_size // (self.count * self.parts)), phase.optimizer, phase.ema_momentum is not None)

    def _begin(self):
        """Writes the config, once nothing is wrong with it, and says what begins."""
        data, config = self.data, self.config
        if self.number > 0:
            return
        rows, columns, _ = data.image_shape
        self.output.mkdir(parents=True, exist_ok=True)
        # With the size that the source chose: its default may change.
        known = {"image_size": rows, "class_names": list(data.class_names)}
        write_config(config | known, self.output / CONFIG)
        sizes = ", ".join(f"{size:,} {part}" for part, size in data.sizes.items())
        print(f"{config['data']}: {sizes} images of {rows} x {columns}, {len(data.class_names)} classes")
        print(f"{self.name}: {self.model.count_params():,} parameters, recipe {config['recipe']}")
        print(self.said.getvalue().removeprefix("keras_vit: "), end="")

    def _fit(self, phase, checkpoints, before, tensorboard):
        """Trains one phase of the recipe; `before` is the history of those before it."""
        import keras

        callbacks = [checkpoints]  # the last of those that change the run: it saves what they did
        if tensorboard and self.number == 0:
            callbacks.insert(0, keras.callbacks.TensorBoard(self.output / "tensorboard", write_graph=False))
        path = self.output / "history.csv"
        if self.number == 0:
            callbacks.append(
                keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: write_history(numbered(before, checkpoints.history), path))
            )
        epochs, steps = phase.length(self.data.steps_per_epoch)
        self.trainer.fit(
            checkpoints.resume(self.data.train_from),
            steps_per_epoch=steps,
            epochs=epochs,
            validation_data=self.data.validation,
            callbacks=callbacks,
            shuffle=False,  # the data comes shuffled; Keras would warn
            verbose=0 if self.number else 1 if sys.stdout.isatty() else 2,  # a bar on a terminal, a line an epoch in a file
        )


def numbered(before, rows):
    """Returns the rows of a history behind those before, with their epochs counted on."""
    return [*before, *(row | {"epoch": len(before) + row["epoch"]} for row in rows)]


def write_history(history, path):
    from keras_vit.training import replacing

    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def write_results(run, history):
    """Writes model, history, figures and report, and prints the test accuracy and where everything is."""
    from keras_vit.data import show_batch
    from keras_vit.training import evaluate_predictions, predict_dataset, replacing, write_report

    output, config, model, data = run.output, run.config, run.model, run.data
    labels, probabilities, shown, _ = predict_dataset(model, data.test)
    result = evaluate_predictions(probabilities, labels, data.class_names)
    right = round(result["accuracy"] * len(labels))
    print(f"\nTest accuracy {right / len(labels):.4f} ({right} of {len(labels)} images)\n")

    with replacing(output / "model.keras") as temporary:
        model.save(temporary)
    write_history(history, output / "history.csv")
    with replacing(output / "test.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    with replacing(output / "batch.png") as temporary:
        show_batch(data, temporary)
    facts = {
        "Test accuracy": f"{100 * right / len(labels):.2f} % ({right} of {len(labels)} images)",
        "Calibration error": f"{100 * result['calibration_error']:.2f} %",
        "Model": f"{run.name}, {model.count_params():,} parameters, images of {data.image_shape[0]} x {data.image_shape[1]}",
        "Data": f"{config['data']}: " + ", ".join(f"{size:,} {part}" for part, size in data.sizes.items()),
        "Recipe": f"{config['recipe']}, {len(history)} epochs, batch {config['training']['batch_size']}, seed {config['seed']}",
    }
    title = f"{run.name} on {config['data']}"
    more = {"First augmented batch": ("batch.png", "Images of the first training batch, after augmentation, with their classes")}
    pictures = write_report(output, title, facts, history, shown, labels, probabilities, data.class_names, more)
    files = {"Model": "model.keras", "History": "history.csv", "Config": CONFIG, "Test figures": "test.json", "First batch": "batch.png"}
    for name, path in ({name: output / file for name, file in files.items()} | pictures).items():
        print(f"{name:18}{path}")
