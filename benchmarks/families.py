"""Measures a model of each of the newer families, one image at a time, and writes the table of docs/families.md.

    python benchmarks/families.py

It takes five to six minutes on 2 cores. Each model runs in a process of its own, as `keras-vit benchmark` does it.
"""

import argparse
import pathlib
import re

from keras_vit.cost.device import threads
from keras_vit.profiling import benchmark

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "families.md"
FAMILIES = {
    "EVA": "EVAg14",
    "EVA-02": "EVA02S14",
    "EVA-02, the largest": "EVA02L14",
    "PE Core": "PECoreB16",
    "PE Lang": "PELangL14",
    "PE Spatial": "PESpatialB16",
    "DINOv3": "DINOv3B16",
    "EUPE": "EUPETi16",
    "RoPE-ViT": "RoPEViTS16Mixed",
    "SBB with rotary positions": "RoPEViTMedium16Reg1",
    "TIPSv2": "TIPSv2B14",
    "I-JEPA": "IJEPAH14",
    "AIMv2": "AIMv2L14",
    "plain, for comparison": "ViTB16",
}
HEAD = """| family | preset | image | parameters (millions) | GMACs | images/s | latency, ms |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long steps are timed; at least ten are")
    options = parser.parse_args()
    rows, device = [], ""
    for family, name in FAMILIES.items():
        row = benchmark(name, batch_size=1, seconds=options.seconds)
        numbers = (row["param_count"], row["infer_gmacs"], row["infer_samples_per_sec"])
        cells = (family, f"`{name}`", row["infer_img_size"], *(f"{number:.2f}" for number in numbers), f"{row['latency_p50']:.0f}")
        rows.append(f"| {' | '.join(map(str, cells))} |")
        print(rows[-1], flush=True)
        device = f"{row['device']}, {threads()} threads, {row['backend']}, {row['dtype']}"
    table = f"{HEAD}{chr(10).join(rows)}\n\nOne image at a time, with `predict`'s compiled step: {device}.\n"
    page = PAGE.read_text("utf-8")
    begin, end = "<!-- measured by benchmarks/families.py -->\n", "<!-- end -->\n"
    PAGE.write_text(re.sub(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", lambda _: f"\n{table}\n", page, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
