"""Writes tar files of the WebDataset form."""

import io
import tarfile

from PIL import Image


def write_tar(path, numbers, label=lambda number: number % 3, suffix="png"):
    """Writes a tar file of images whose every pixel is their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            image = io.BytesIO()
            Image.new("RGB", (20, 16), (number, number, number)).save(image, {"png": "PNG", "bmp": "BMP"}[suffix])
            for name, content in ((f"{number:03d}.{suffix}", image.getvalue()), (f"{number:03d}.cls", str(label(number)).encode())):
                if content != b"None":
                    info = tarfile.TarInfo(f"deep/{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
