"""The house stands as docs/architecture.md says: imports run down only, files are short, and Keras's objects are not patched."""

import ast
import pathlib

import keras

ROOT = pathlib.Path(__file__).parents[1]
# From the ground up. A file imports from its own room and from the floors below, never from its neighbors on the same floor.
FLOORS = [
    {"version", "names", "files", "extras", "messages", "one_dnn", "reading", "families"},
    {"runtime"},
    {"layers"},
    {"presets", "stems", "rotary", "image_input", "inputs", "outputs"},
    {"config"},
    {"vision_transformer"},
    {"backbone", "cost", "quantization"},
    {"checkpoints"},
    {"zoo", "zero_shot"},
    {"data", "visualize"},
    {"export", "features"},
    {"training"},
    {"app", "profiling", "tuning"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted([*(ROOT / "keras_vit").rglob("*.py"), *(ROOT / "keras_vit_cli").rglob("*.py")])


# Where Keras leaves no other way, as the file says; and what Keras Tuner has no argument for.
SEAMS = {("runtime/keras_seams.py", "_initializer"), ("runtime/keras_seams.py", "_initial_epoch"), ("tuning/tuners.py", "_display")}
KERAS = [keras.Model, keras.Layer, keras.Variable, keras.optimizers.Optimizer, keras.random.SeedGenerator, keras.metrics.Metric]


OURS = sorted([*FILES, *(path for name in ("tests", "benchmarks", "examples") for path in (ROOT / name).rglob("*.py"))])
MOST_LINES = 400


def room(path):
    return path.relative_to(ROOT / "keras_vit").with_suffix("").parts[0]


def imported(path):
    """Returns {(line, room of keras_vit)} of every import in a file, also within functions."""
    tree = ast.parse(path.read_text("utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" if node.module == "keras_vit" else node.module for alias in node.names]
        else:
            continue
        found |= {(node.lineno, name.split(".")[1]) for name in names if name and name.startswith("keras_vit.")}
    return found


def test_imports_run_down_only():
    wrong = []
    for path in FILES:
        if not path.is_relative_to(ROOT / "keras_vit") or path.name == "__init__.py" and path.parent.name == "keras_vit":
            continue  # the face imports what users import, and the command may import everything
        for line, name in imported(path):
            mine, theirs = FLOOR.get(room(path), -1), FLOOR.get(name, 0 if name.startswith("__") else None)
            if theirs is None or theirs > mine or (theirs == mine and name != room(path)):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_imports_the_command():
    users = [path for path in FILES if path.is_relative_to(ROOT / "keras_vit") and "keras_vit_cli" in path.read_text("utf-8")]
    assert not [
        path for path in users if "import keras_vit_cli" in path.read_text("utf-8") or "from keras_vit_cli" in path.read_text("utf-8")
    ]


def test_keras_is_not_patched():
    """Assigns no private attribute and no method of another object, and nothing to a class."""
    methods = {name for cls in KERAS for name in dir(cls) if callable(getattr(cls, name))}
    wrong = []
    for path in FILES:
        tree = ast.parse(path.read_text("utf-8"))
        own = {name.id for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body for name in ast.walk(each)
               if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}  # fmt: skip
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)):
                continue
            owner = ast.unparse(node.value)
            private = node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in own
            if owner != "self" and (private or node.attr in methods or owner.startswith("keras.")):
                name = str(path.relative_to(ROOT / "keras_vit")) if path.is_relative_to(ROOT / "keras_vit") else path.name
                if (name, node.attr) not in SEAMS:
                    wrong.append(f"{name}:{node.lineno}: {owner}.{node.attr} = ...")
    assert not wrong, "\n".join(wrong)


def test_layers_do_not_know_replicas():
    """A layer asks the runtime for what it needs; over how many replicas a batch is divided is none of its business."""
    layers = [path for path in FILES if path.is_relative_to(ROOT / "keras_vit" / "layers")]
    assert layers and not [str(path) for path in layers if "replicas(" in path.read_text("utf-8")]


def test_no_file_is_long():
    lines = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in OURS}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
