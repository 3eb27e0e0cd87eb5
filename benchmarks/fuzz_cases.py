"""Damaged files: strategies of Hypothesis that flip bits, cut, splice, and put odd values and names into whole files."""

import contextlib
import copy
import functools
import io
import json
import warnings
import zipfile

import numpy as np
import tomli_w
from hypothesis import strategies as st
from PIL import Image

NUMBERS = (0, 1, 2**15, 2**16 - 1, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
DEEP = "@deep@"  # becomes brackets within brackets
VALUES = (
    None, True, 0, -1, 1, 3, 7, 1.5, 2**31, 2**40, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", "x" * 2000, "\x1b[2J\n",
    "é", "../../etc/passwd", "/dev/zero", "hf://", [], {}, [[]], [1, 2], {"a": {}}, DEEP,
)  # fmt: skip
NAMES = ("../x.npy", "/tmp/x.npy", "a/../../x", "C:\\x.npy", "x\0.npy", "x\n\x1b[2J.npy", "x" * 5000, "data.pkl", "config.json", ".npy")
PICKLES = (
    b"cos\nsystem\nX\x04\x00\x00\x00true\x85R0", b"cnumpy\ndtype\nX\x0b\x00\x00\x00V2000000000\x85R0", b"(" * 2000, b"]" * 5000,
    b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x0b\x00\x00\x00V2000000000\x85R\x85R0", b"}q\x00(X\x01\x00\x00\x00ah\x00u",
    b"2" * 3000,
    b"X\xff\xff\xff\x7f", b"\x8a\xff", b"r\xff\xff\xff\xff", b"ctorch\nFloatStorage\n", b"cargparse\nNamespace\n)\x81}b0", b"\x94\x93",
)  # fmt: skip


def strategy(function):
    """As Hypothesis's `composite`, but its errors do not print the files that a case is made of."""
    return functools.wraps(function)(lambda *arguments, **options: st.composite(lambda draw: function(draw, *arguments, **options))())


@strategy
def damaged(draw, originals, snippets=()):
    """Bytes with flipped bits, cuts, splices, repetitions and odd numbers, more often at the begin and the end."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3, 5)))):
        end = max(len(data), 1)
        at = draw(st.one_of(st.integers(0, min(end, 400) - 1), st.integers(max(0, end - 400), end - 1), st.integers(0, end - 1)))
        kind = draw(st.sampled_from(("flip", "number", "number", "cut", "splice", "repeat", "snippet")))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width, order = draw(st.sampled_from((2, 4, 8))), draw(st.sampled_from(("little", "big")))
            data[at : at + width] = (draw(st.sampled_from(NUMBERS)) % 2 ** (8 * width)).to_bytes(width, order)
        elif kind == "cut":
            del data[at : at + draw(st.sampled_from((1, 4, 100, end)))]
        elif kind == "repeat":
            data[at:at] = data[at : at + 100] * draw(st.sampled_from((1, 3, 200)))
        else:
            data[at:at] = draw(st.sampled_from(snippets)) if snippets and kind == "snippet" else draw(st.binary(max_size=12))
    return bytes(data)


@strategy
def edited(draw, originals):
    """A tree of dicts and lists with odd values, lacking and foreign keys."""
    tree = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            kind = draw(st.sampled_from(("value", "value", "value", "delete", "rename", "key")))
            if kind == "value":
                place[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            elif kind == "key" and isinstance(place, dict):
                place[draw(st.sampled_from(("x", "", "../x", "x" * 3000, "a\nb")))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            else:
                value = place.pop(key)
                if kind == "rename" and isinstance(place, dict):
                    place[draw(st.sampled_from((str(key) + "9999999", "a." + str(key), str(key).replace("0", "123456789"))))] = value
            break
    return tree


@strategy
def archive(draw, originals, snippets=(), inner=None):
    """The bytes of a zip archive with damaged, renamed, doubled and packed members. `inner` maps a name's end to a strategy of contents."""
    members = list(draw(st.sampled_from(originals)).items())
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        place = draw(st.integers(0, len(members) - 1))
        name, content = members[place]
        kind = draw(st.sampled_from(("content", "content", "name", "double", "drop")))
        if kind == "content":
            own = next((strategy for end, strategy in (inner or {}).items() if name.endswith(end)), None)
            members[place] = name, draw(own if own is not None and draw(st.booleans()) else damaged([content[:1_000_000]], snippets))
        elif kind == "name":
            members[place] = draw(st.sampled_from(NAMES)), content
        elif kind == "double":
            members.append((name, content))
        elif len(members) > 1:
            del members[place]
    file = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if draw(st.integers(0, 4)) == 0 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", packed) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        for name, content in members:
            made.writestr(name, content)
    return draw(damaged([file.getvalue()])) if draw(st.integers(0, 3)) == 0 else file.getvalue()


def json_bytes(tree):
    return json.dumps(tree).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000).encode("utf-8", "surrogatepass")


def toml_bytes(tree):
    with contextlib.suppress(TypeError, ValueError, AttributeError):  # what TOML cannot hold
        return tomli_w.dumps(tree).replace(f'"{DEEP}"', "[" * 5_000 + "]" * 5_000).encode("utf-8", "surrogatepass")
    return repr(tree).encode("utf-8", "surrogatepass")


def images():
    """Returns the bytes of whole images by suffix, of all formats and odd forms."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 4), "uint8")
    rgb, found = Image.fromarray(pixels[..., :3]), {}
    turned = Image.Exif()
    turned[0x0112] = 6
    forms = {
        "a.jpg": (rgb, dict(exif=turned)), "b.jpg": (rgb.convert("CMYK"), {}), "c.jpg": (rgb.convert("L"), dict(progressive=True)),
        "a.png": (Image.fromarray(pixels), {}), "b.png": (Image.fromarray(pixels[..., 0].astype("uint16") * 257), {}),
        "c.png": (rgb.convert("P"), dict(transparency=0)), "d.png": (rgb.convert("1"), {}), "e.png": (Image.new("RGB", (30_000, 1)), {}),
        "f.png": (Image.new("RGB", (1, 1)), {}), "g.png": (rgb, dict(save_all=True, append_images=[rgb.rotate(90)] * 3)),
        "a.bmp": (rgb, {}),
        "a.gif": (rgb, dict(save_all=True, append_images=[rgb.rotate(90)] * 3)), "a.webp": (rgb, {}), "b.webp": (rgb, dict(lossless=True)),
        "a.tif": (rgb.convert("CMYK"), dict(compression="tiff_lzw")), "b.tif": (Image.fromarray(pixels[..., 0] / np.float32(7)), {}),
        "c.tif": (rgb, dict(save_all=True, append_images=[rgb])), "a.ppm": (rgb, {}), "a.jp2": (rgb, {}), "a.avif": (rgb, {}),
    }  # fmt: skip
    for name, (image, options) in forms.items():
        with contextlib.suppress(KeyError, OSError, ValueError):  # a Pillow without this format
            file = io.BytesIO()
            image.save(file, Image.registered_extensions()["." + name.split(".")[1]], **options)
            found[name] = file.getvalue()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp/x) deletefile showpage\n"
    return found | {"a.eps": postscript, "a.txt": b"no image"}


def image_cases():
    found = images()
    return st.tuples(st.sampled_from(sorted({name.split(".")[1] for name in found})), damaged(list(found.values())))
