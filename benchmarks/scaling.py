"""Measures time and peak memory against the number of tokens, and compares them with the arithmetic. Prints a Markdown table.

    python benchmarks/scaling.py --plot scaling.png                  # up to 4,096 tokens
    python benchmarks/scaling.py --max-tokens 600 --rounds 1         # a quick run

A batch is one image of 224 to 1,024 pixels, with patches of 32, 16 and 8 pixels. The model has few blocks, and every block computes all
tokens. It measures inference and training steps of keras_vit on TensorFlow, JAX and torch, and of timm, whose attention is torch's
`scaled_dot_product_attention`. Processes and turns are those of throughput.py. Memory is the peak of the process during the steps, minus
its memory after the model was built.
"""

import argparse
import itertools
from contextlib import ExitStack

from throughput import arguments, measure, on_gpu, start
from workers import Row

SIZES = (224, 384, 512, 768, 1024)
IMPLEMENTATIONS = {
    "inference": [("keras_vit", "TF predict_on_batch"), ("keras_vit", "JAX"), ("keras_vit", "torch"), ("timm", "torch")],
    "train": [("keras_vit", "TF"), ("keras_vit", "TF XLA"), ("keras_vit", "JAX"), ("keras_vit", "torch"), ("timm", "torch")],
}


def points(most):
    """Returns {number of patches: (patch size, image size)}, with the smallest image for each number."""
    found = {}
    for size, patch in sorted(itertools.product(SIZES, (32, 16, 8))):
        found.setdefault((size // patch) ** 2, (patch, size))
    return {tokens: found[tokens] for tokens in sorted(found) if tokens <= most}


def plot(file, records):
    """Draws time and memory of both kinds, and the values that the arithmetic predicts as dashed lines."""
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), sharex=True)
    names = dict.fromkeys(record["name"] for record in records)
    styles = {label: dict(color=f"C{number}", marker=marker) for number, (label, marker) in enumerate(zip(names, "osD^vPX*<>"))}
    for column, kind in enumerate(IMPLEMENTATIONS):
        mine = [record for record in records if record["kind"] == kind]
        formula = {record["tokens"]: record for record in mine}.values()
        tokens = [record["tokens"] for record in formula]
        rate = max(record["gflop"] / record["ms"] for record in mine)
        time, memory = axes[:, column]
        time.plot(tokens, [record["gflop"] / rate for record in formula], "k--", label=f"multiply-adds at {1e3 * rate:.0f} GFLOP/s")
        if kind == "train":
            memory.plot(tokens, [record["activations"] for record in formula], "k--", label="activations by formula")
        for label, style in styles.items():
            line = [record for record in mine if record["name"] == label]
            for axis, value in ((time, "ms"), (memory, "mb")):
                if line:
                    axis.plot(*zip(*((record["tokens"], record[value]) for record in line)), label=label, **style)
        time.set(title=kind, xscale="log", yscale="log", ylabel="ms" if not column else "")
        memory.set(xscale="log", yscale="log", xlabel="tokens", ylabel="MB above the built model" if not column else "")
        for axis in (time, memory):
            axis.set_xticks(tokens, [f"{number:,}" for number in tokens], rotation=30)
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.set_defaults(rounds=5, seconds=1.0)
    parser.add_argument("--model", default="S/16", choices=["Ti/16", "S/16", "B/16"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=4096, help="patches of an image")
    parser.add_argument("--kinds", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS), metavar="KIND")
    parser.add_argument("--dtype", default="float32", choices=["float32", "mixed_bfloat16"])
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()

    records = []
    print(f"Width and heads of ViT-{options.model}, {options.layers} blocks, batch 1, {options.dtype}. GFLOP and activations by formula.\n")
    print("| | tokens | patch | image | GFLOP | activations, MB | | ms (quartiles) | GFLOP/s | peak MB |\n" + "| --- " * 10 + "|")
    for kind, (tokens, (patch, size)) in itertools.product(options.kinds, points(options.max_tokens).items()):
        rows = []
        for who, runtime in IMPLEMENTATIONS[kind]:
            if on_gpu() and runtime.startswith("TF"):
                continue
            form = "full" if who == "keras_vit" else ""
            rows.append(Row(who, runtime, kind, options.model, size, 1, options.dtype, form, patch, options.layers))
        with ExitStack() as stack:
            workers = start(rows, options.venvs, stack)
            measure(workers, options.rounds, options.seconds)
        gflop, _, activations = next(worker.ready["work"] for worker in workers if worker.ready["work"])
        gflop *= 3 if kind == "train" else 1
        for worker in workers:
            low, median, high, _ = (1e3 * seconds for seconds in worker.seconds())
            label = f"{worker.row.who} {worker.row.runtime}"
            peak = max(chunk["peak"] for chunk in worker.chunks) - worker.ready["built"]
            records.append(dict(kind=kind, tokens=tokens, name=label, gflop=gflop, activations=activations, ms=median, mb=peak))
            cells = [kind, f"{tokens:,}", patch, size, f"{gflop:.1f}", f"{activations:.0f}" if kind == "train" else "", label]
            cells += [f"{median:.0f} ({low:.0f} to {high:.0f})", f"{1e3 * gflop / median:.0f}", f"{peak:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if options.plot:
        plot(options.plot, records)


if __name__ == "__main__":
    main()
