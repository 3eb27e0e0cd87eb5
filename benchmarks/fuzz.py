"""Hostile files and requests: each must be answered by a result or by a one-line error, in time and in bounded memory.

    pip install ".[dev]" && python benchmarks/fuzz.py --cases 100000 --state fuzz.json

Each target takes valid files that this package wrote, and Hypothesis damages them. Chunks of cases run in child processes under a limit of
memory: a crash, a hang or a MemoryError is a finding like a wrong exception. The same command resumes after a kill. `--only TARGET
--seed N` repeats one case and shows its traceback. The target "http" needs gradio, and is left out without it.
"""

import argparse
import contextlib
import faulthandler
import gc
import importlib.util
import io
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback

CHUNK, PROCESS = 1000, 8000  # cases of one seed, and of one process
SECONDS = 20  # of a case
MEMORY = 600 << 20  # bytes that a case may take beyond those before it, and give back
ADDRESSES = 3 << 30  # bytes of address space beyond those of the imports
SHARES = {  # of the cases, in percent
    "safetensors": 15, "npz": 13, "pth": 13, "checkpoint": 8, "json": 10, "h5": 2, "keras": 2, "toml": 12, "features": 3, "tar": 3,
    "image": 14, "folder": 1, "command": 1, "http": 3,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("fuzz.json"), help="where the progress is kept")
    parser.add_argument("--only", help="one target, or several with commas")
    parser.add_argument("--seed", type=int, help="repeat this case of --only")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the same command goes on")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return chunk(given.child[0], int(given.child[1]), int(given.child[2]))
    if given.seed is not None:
        return chunk(given.only, given.seed, given.seed + 1, alone=True)
    state = json.loads(given.state.read_text()) if given.state.exists() else {}
    end = time.monotonic() + 60 * given.minutes
    for target in given.only.split(",") if given.only else SHARES:
        if target == "http" and importlib.util.find_spec("gradio") is None:
            print("http: left out, for want of gradio")
            continue
        done = state.setdefault(target, {"cases": 0, "seconds": 0.0, "growth": 0, "peak": 0, "findings": {}})
        wanted = given.cases * SHARES[target] // 100
        while done["cases"] < wanted and time.monotonic() < end:
            run(target, done, min(wanted, done["cases"] + PROCESS), lambda: given.state.write_text(json.dumps(state, indent=1)))
        print(
            f"{target}: {done['cases']} cases, {done['seconds']:.0f} s, largest growth of a process {done['growth'] >> 20} MiB, "
            f"of a case {done['peak'] >> 20} MiB, {len(done['findings'])} kinds of findings",
            flush=True,
        )
        for what, seeds in done["findings"].items():
            print(f"  {what}\n    {seeds['count']} times, --only {target} --seed {seeds['first']}")
    return 1 if any(done["findings"] for done in state.values()) else 0


def run(target, done, last, save):
    """Runs the cases up to `last` in a child, and enters what it tells; a child that dies has found something, too."""
    began, first, told, kept = time.monotonic(), done["cases"], False, 0.0
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", target, str(first), str(last)], stdout=subprocess.PIPE, stderr=errors, text=True,
            errors="replace", env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        for line in child.stdout:
            if not line.startswith("\1{"):
                continue
            report, told = json.loads(line[1:]), True
            for what, seed in report.get("findings", {}).items():
                enter(done, what, seed)
            for name in ("growth", "peak"):
                done[name] = max(done[name], report.get(name, 0))
            done["cases"], now = report["next"], time.monotonic()
            done["seconds"], began = done["seconds"] + now - began, now
            if now - kept > 2:
                save(), (kept := now)
        child.wait()
        errors.seek(0)
        lines = errors.read().splitlines()
    if child.returncode and not told:
        sys.exit("\n".join(lines))  # before the first case
    if child.returncode and any(line.startswith("Timeout (") for line in lines) and done.get("late") != done["cases"]:
        done["late"] = done["cases"]  # once more: the machine, and not the case, may have stood still
    elif child.returncode:
        place = [line.strip() for line in lines if "/" in line][:3] or lines[-3:]
        enter(done, f"the process ended with {child.returncode}: {' | '.join(place)}", done["cases"])
        done["cases"] += 1
    save()


def enter(done, what, seed):
    entry = done["findings"].setdefault(what, {"count": 0, "first": seed})
    entry["count"] += 1


def chunk(name, first, last, alone=False):
    """Runs cases of a target in this process. It prints lines of JSON: findings, what comes next, memory.

    Growth is measured between the ends of the first and the last thousand.
    """
    import hypothesis
    from fuzz_targets import TARGETS

    tell = sys.stdout if alone else os.fdopen(os.dup(1), "w", buffering=1)
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        os.environ["KERAS_HOME"] = str(folder / "home")
        strategy, call = target(folder)
        before, warm, peak, number = memory(), None, 0, first
        resource.setrlimit(resource.RLIMIT_AS, (before["VmSize"] + ADDRESSES,) * 2)
        options = dict(database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate])
        tell.write("\1" + json.dumps({"next": first}) + "\n")
        for begin in range(first // CHUNK * CHUNK, last, CHUNK):
            number = begin - 1

            @hypothesis.seed(begin)
            @hypothesis.settings(max_examples=CHUNK, **options)
            @hypothesis.given(strategy)
            def each(case):
                nonlocal peak, number
                number += 1
                if not first <= number < last:
                    return
                if not alone:
                    faulthandler.dump_traceback_later(SECONDS, exit=True)
                finding, taken = judge(call, case, folder, alone)
                faulthandler.cancel_dump_traceback_later()
                peak = max(peak, taken)
                if finding or number % 20 == 0:
                    tell.write("\1" + json.dumps({"next": number + 1, "findings": {finding: number} if finding else {}}) + "\n")

            each()
            del each  # Hypothesis keeps what it has tried
            gc.collect()
            after = memory()["VmRSS"]
            warm = after if warm is None else warm
        growth = after - warm
        tell.write("\1" + json.dumps({"next": last, "growth": growth, "peak": peak}) + "\n")
    return 0


def judge(call, case, folder, alone):
    """Returns what is wrong with the answer to a case, or None; and the memory that it took."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, finding = memory()["VmRSS"], None
    said = io.StringIO()
    try:
        with contextlib.ExitStack() as stack:
            if not alone:
                stack.enter_context(contextlib.redirect_stdout(said))
                stack.enter_context(contextlib.redirect_stderr(said))
            call(case)
    except (ValueError, OSError, ImportError) as error:
        text = str(error)
        if alone:
            print(f"{type(error).__name__}: {text}")
        if "\n" in text or len(text) > 4000:
            finding = f"{type(error).__name__} of several lines or 4,000 letters {where(error)}: {ascii(text)[:60]}"
        elif str(folder) not in text and not getattr(call, "nameless", False) and str(getattr(error, "filename", "")) not in text:
            finding = f"{type(error).__name__} without the file's name {where(error)}: {ascii(text)[:60]}"
    except BaseException as error:  # whatever it is, it is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        finding = f"{type(error).__name__} {where(error)}: {ascii(str(error))[:80]}"
        if alone:
            traceback.print_exc()
    taken = memory()["VmHWM"] - before
    if taken > MEMORY and not finding:
        finding = "more memory than allowed"
    if alone:
        print(f"finding: {finding}; {taken >> 20} MiB")
    return finding, taken


def where(error):
    """Returns the innermost line of this package in a traceback, which tells kinds of findings apart."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}keras_vit" in frame.filename]
    frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"at {pathlib.Path(frame.filename).name}:{frame.name}"


def memory():
    """Returns the process's memory in bytes, by Linux's names."""
    rows = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return {name: int(rows[name].split()[0]) << 10 for name in ("VmSize", "VmRSS", "VmHWM")}


if __name__ == "__main__":
    sys.exit(main())
