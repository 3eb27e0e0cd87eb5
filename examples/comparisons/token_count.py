"""Token count: accuracy, time and memory against patch size and image size, predicted and measured; and patches changed after training.

    apt-get install dataset-fashion-mnist
    python examples/comparisons/token_count.py             # an hour and a quarter on one core
    python examples/comparisons/token_count.py --figure    # from the CSV files, without training

Fashion-MNIST with patches of 7, 4 and 2 pixels, for equal steps and for equal multiply-adds, with patches of 1 for few steps, and at 14 and
56 pixels; `model.adapt(patch_size=...)` changes the patches of a trained model. ViT-S on photographs is only timed, in training steps.
"""

import keras_vit
from keras_vit.presets import preset
from keras_vit.profiling import calibrate
from keras_vit.profiling.steps import Job, measure
from matplotlib import pyplot
from runs import VIT, Results, accuracy, arguments, by_place, curve, data, fresh, markdown, save, shown, train

STEPS, SHORT, RATE = 1500, 50, 3e-3
TRAINED = ("kind", "side", "patch", "tokens", "seed", "steps", "train", "test", "seconds")
COST = ("model", "side", "patch", "tokens", "batch", "mmacs", "predicted_seconds", "seconds", "predicted_mib", "mib")
SIZES = [(28, 7), (28, 4), (28, 2), (14, 2), (56, 8)]  # pixels of image and patch; (28, 1) is timed, and trained for few steps
TOKENS = dict(xlabel="Tokens", xscale="log", xticks=(16, 49, 196, 784), xticklabels=(16, 49, 196, 784))
PHOTOGRAPHS = [(224, 32), (224, 16), (224, 8), (128, 16), (384, 16)]


def config(side, patch, form=VIT):
    return form | dict(input_shape=(side, side, 3), patch_size=patch)


def fit(options, results):
    def run(kind, side, patch, seed, steps):
        def result():
            model = fresh((side, patch), lambda: keras_vit.VisionTransformer(**config(side, patch)))
            batches = data(options.quick, seed=seed, side=side)
            found = train(model, batches.train_from(0), steps, RATE)
            if kind == "equal steps" and (side, patch) == (28, 4):
                for other in (7,) if options.quick else (7, 2):
                    if not results.find(kind="changed, and trained", patch=other, seed=seed):
                        adapt(model, other, seed, batches)
            return found | {"test": accuracy(model, batches.test)}

        results.once(result, kind=kind, side=side, patch=patch, tokens=(side // patch) ** 2, seed=seed, steps=steps)

    def adapt(model, patch, seed, batches):
        model = model.adapt(patch_size=patch)
        for kind, steps in (("patches of 4, changed", 0), ("changed, and trained", options.short)):
            found = train(model, batches.train_from(options.steps), steps, RATE / 10) if steps else {}
            found |= dict(kind=kind, side=28, patch=patch, tokens=(28 // patch) ** 2, seed=seed, steps=steps)
            results.add(found | {"test": accuracy(model, batches.test)})

    macs = {patch: keras_vit.cost(config(28, patch)).macs for patch in (7, 4, 2)}
    for seed in range(options.seeds):
        for side, patch in options.sizes:
            run("equal steps", side, patch, seed, options.steps)
        for patch in () if options.quick else (7, 2):
            run("equal multiply-adds", 28, patch, seed, 10 * round(options.steps / 10 * macs[4] / macs[patch]))
    for patch in () if options.quick else (7, 4, 2, 1):
        run("few steps", 28, patch, 0, options.short)


def time_steps(options, costs):
    machine = None if options.quick else calibrate()
    jobs = [("small", *sizes, 32, config(*sizes)) for sizes in options.timed]
    jobs += [] if options.quick else [("ViT-S", *sizes, 2, config(*sizes, preset("ViTS16"))) for sizes in PHOTOGRAPHS]
    for model, side, patch, batch, form in jobs:

        def result(form=form, batch=batch):
            step = keras_vit.estimate_step(form, batch, machine=machine)
            tiny = Job(VIT | dict(hidden_dim=4, num_layers=1), 1, True, seconds=0.0, least=1)  # its memory is that of the framework
            (before,), (after,) = measure([tiny]), measure([Job(form, batch, True, seconds=0.0, least=3)])
            return dict(
                mmacs=step.macs / batch / 1e6,
                predicted_seconds=step.seconds.total if step.seconds else "",
                seconds=sorted(after.seconds)[len(after.seconds) // 2],
                predicted_mib=round(step.memory.total / 2**20),
                mib=round((after.peak_bytes - before.peak_bytes) / 2**20),
            )

        costs.once(result, model=model, side=side, patch=patch, tokens=(side // patch) ** 2, batch=batch)


def table(results, costs):
    kinds, rows = dict.fromkeys(row["kind"] for row in results.rows), []
    for tokens, side, patch in sorted({(row["tokens"], row["side"], row["patch"]) for row in results.rows}):
        rows.append([side, patch, tokens, *(shown([row["test"] for row in results.find(kind=k, side=side, patch=patch)]) for k in kinds)])
    print(markdown(["pixels", "patch", "tokens", *(f"{kind}: test accuracy, %" for kind in kinds)], rows), end="\n\n")
    print(markdown(COST, [[row[key] for key in COST] for row in costs.rows]))


def draw(options, results, costs):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for kind in dict.fromkeys(row["kind"] for row in results.rows):
        shared = results.find(kind="equal steps", side=28, patch=4) if kind == "equal multiply-adds" else []
        points = by_place(results.find(kind=kind, side=28) + shared, "tokens", "test", 100)
        curve(left, points, kind, linestyle="--" if "changed" in kind else "-")
    left.set(**TOKENS, ylabel="Test accuracy (%)", title="Fashion-MNIST, 28 pixels, patches of 7 to 1")
    for model, color in (("small", "#1f6fb4"), ("ViT-S", "#d1495b")):
        for key, style in (("seconds", "-"), ("predicted_seconds", ":")):
            points = {row["tokens"]: [row[key] / row["batch"]] for row in costs.find(model=model) if row[key] != ""}
            curve(right, points, f"{model}, {'measured' if key == 'seconds' else 'predicted'}", color=color, linestyle=style)
    right.set(**TOKENS, yscale="log", ylabel="Training, seconds an image", title="Time of a training step")
    save(figure, options.file("token_count", "png"))


def main():
    options = arguments(__doc__)
    options.steps, options.short = (4, 2) if options.quick else (options.steps or STEPS, SHORT)
    options.sizes, options.timed = (SIZES[:2], SIZES[:1]) if options.quick else (SIZES, SIZES + [(28, 1)])
    results, costs = Results(options.file("token_count"), TRAINED), Results(options.file("token_count_cost"), COST)
    if not options.figure:
        fit(options, results)
        time_steps(options, costs)
    table(results, costs)
    draw(options, results, costs)


if __name__ == "__main__":
    main()
