"""CNN, ViT and the hybrid between them: test accuracy against the number of training images of Fashion-MNIST, and what each sees.

    apt-get install dataset-fashion-mnist
    python examples/comparisons/cnn_vit_hybrid.py                     # two hours on one core
    python examples/comparisons/cnn_vit_hybrid.py --weights FOLDER    # and a pretrained ViT-S/14, fine-tuned: half an hour more
    python examples/comparisons/cnn_vit_hybrid.py --figure            # from the CSV files, without training

The three families have equal multiply-adds (within 10 %) and the same number of steps. The learning rate of each is the best of the same
three, by validation accuracy at 4,000 images. With `--weights`, the ninth block and a new head are trained on the output of the eighth,
which is computed once, without augmentation; with `--all-layers`, the whole model, with weak augmentation.
"""

import seeing
from families import FAMILIES, fine_tune, macs
from matplotlib import pyplot
from runs import Results, accuracy, arguments, by_place, curve, data, fresh, markdown, save, shown, train

# In the order of the runs: first where the learning rates are chosen, then the ends.
SIZES, STEPS, TUNED_AT, SEEN_AT = (4000, 250, 16_000, 60_000, 1000), 1500, 4000, 16_000
RATES = {"CNN": (1e-3, 3e-3, 1e-2), "ViT": (1e-3, 3e-3, 1e-2), "hybrid": (1e-3, 3e-3, 1e-2), "pretrained": (1e-4, 3e-4, 1e-3)}
FIELDS = ("family", "augmentation", "images", "seed", "rate", "steps", "train", "validation", "test", "seconds")
COLORS = {"CNN": "#d1495b", "ViT": "#1f6fb4", "hybrid": "#2a9d5c", "pretrained": "#777777"}


def measure(options, results, inside):
    def run(family, augmentation, images, seed, rate):
        def result():
            if family == "pretrained":
                return fine_tune(options, images, seed, rate)
            model, batches = fresh(family, FAMILIES[family]), data(options.quick, images, augmentation, seed)
            found = train(model, batches.train_from(0), options.steps, rate)
            if augmentation == "weak" and images == options.tuned_at and seed == 0:
                found["validation"] = accuracy(model, batches.validation)
            if augmentation == "weak" and images == options.seen_at and not inside.find(family=family, seed=seed):
                for row in seeing.measures(model, batches.test, options.quick):
                    inside.add({"family": family, "seed": seed, **row})
            return found | {"test": accuracy(model, batches.test)}

        where = dict(family=family, augmentation=augmentation, images=images, seed=seed, rate=rate, steps=options.steps)
        return results.once(result, **where)

    runs = [(family, augmentation) for augmentation in ("weak", "strong") for family in FAMILIES]
    runs += [("pretrained", "weak" if options.all_layers else "none")] if options.weights else []
    rates = {}
    for seed in range(options.seeds):
        for images in options.sizes:
            for family, augmentation in runs:
                if images > 16_000 and (seed or family == "pretrained"):
                    continue
                if family not in rates:
                    rows = [run(family, augmentation, options.tuned_at, 0, rate) for rate in options.rates[family]]
                    rates[family] = max(rows, key=lambda row: row["validation"])["rate"]
                run(family, augmentation, images, seed, rates[family])


def chosen(results, **where):
    """Returns the rows of a setting at the learning rate that validation images chose."""
    tuned = [row for row in results.find(family=where["family"]) if row["validation"] != ""]
    rate = max(tuned, key=lambda row: row["validation"])["rate"] if tuned else None
    return results.find(**where, rate=rate)


def lines(results):
    """Returns the pairs of a family and an augmentation that there are."""
    return dict.fromkeys((row["family"], row["augmentation"]) for row in results.rows)


def table(options, results, inside):
    print("multiply-adds of an image:", ", ".join(f"{family} {macs(build()):,}" for family, build in FAMILIES.items()))
    rows = []
    for family, augmentation in lines(results):
        found = [chosen(results, family=family, augmentation=augmentation, images=images) for images in sorted(options.sizes)]
        rows.append([family, augmentation, *(shown([row["test"] for row in each]) for each in found)])
    print(markdown(["test accuracy, %", "augmentation", *(f"{images:,} images" for images in sorted(options.sizes))], rows))
    print()
    places = sorted({(row["measure"], row["place"]) for row in inside.rows})
    rows = [
        [measure, place, *(shown([r["value"] for r in inside.find(measure=measure, place=place, family=f)], 1, 3) for f in FAMILIES)]
        for measure, place in places
    ]
    print(markdown(["measure", "depth or shift", *FAMILIES], rows))


def draw(options, results, inside):
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 5), layout="constrained")
    for family, augmentation in lines(results):
        rows = [row for images in sorted(options.sizes) for row in chosen(results, family=family, augmentation=augmentation, images=images)]
        points = by_place(rows, "images", "test", 100)
        curve(left, points, f"{family}, {augmentation}", color=COLORS[family], linestyle="--" if augmentation == "strong" else "-")
    axis = dict(xscale="log", xticks=options.sizes, xticklabels=options.sizes, xlabel="Training images")
    left.set(**axis, ylabel="Test accuracy (%)", title="Accuracy")
    for axes, measure, style in ((middle, "attention distance", "-"), (middle, "gradient distance", ":"), (right, "shift", "-")):
        for family in FAMILIES:
            points = by_place(inside.find(family=family, measure=measure), "place", "value")
            curve(axes, points, f"{family}, {measure}" if axes is middle else family, color=COLORS[family], linestyle=style)
    middle.set(xlabel="Block or stage", ylabel="Mean distance (pixels)", title="How far a unit sees", xticks=range(4))
    right.set(xlabel="Shift (pixels)", ylabel="Test accuracy (%)", title="Shifted test images")
    save(figure, options.file("cnn_vit_hybrid", "png"))


def main():
    options = arguments(__doc__, weights=True)
    options.sizes, options.steps = ((200,), 4) if options.quick else (SIZES, options.steps or STEPS)
    options.rates = {family: rates[1:2] if options.quick else rates for family, rates in RATES.items()}
    options.tuned_at, options.seen_at = (200, 200) if options.quick else (TUNED_AT, SEEN_AT)
    results = Results(options.file("cnn_vit_hybrid"), FIELDS)
    inside = Results(options.file("cnn_vit_hybrid_inside"), ("family", "seed", "measure", "place", "value"))
    if not options.figure:
        measure(options, results, inside)
    table(options, results, inside)
    draw(options, results, inside)


if __name__ == "__main__":
    main()
