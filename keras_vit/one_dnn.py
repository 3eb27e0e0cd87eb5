"""TensorFlow's oneDNN, whose kernels fuse operations that Eigen's do not. Nothing here imports Keras, which brings TensorFlow."""

import functools
import logging
import os
import pathlib
import re
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
PROCESSORS = pathlib.Path("/proc/cpuinfo")  # on Linux

log = logging.getLogger("keras_vit")


def turn_on():
    """Has TensorFlow use oneDNN on every Linux processor with AVX2. By itself it does so only with AVX-512 VNNI, AVX-VNNI or AMX.

    TensorFlow reads the environment variable `TF_ENABLE_ONEDNN_OPTS` while it is imported. If the user has set it, or has turned fast
    paths off by `KERAS_VIT_FAST_PATHS=0`, nothing changes.
    """
    if "tensorflow" not in sys.modules and os.environ.get("KERAS_VIT_FAST_PATHS") != "0" and _has_avx2():
        os.environ.setdefault(VARIABLE, "1")


@functools.cache
def one_dnn():
    """Returns whether TensorFlow's graphs run on oneDNN's kernels in this process. If they could and do not, a logged line says so."""
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public way to ask

    used = _pywrap_util_port.IsMklEnabled()
    if not used and VARIABLE not in os.environ and _has_avx2():
        log.warning(
            "On this processor TensorFlow uses oneDNN, which is faster, only if it is told so before it is imported: import keras_vit "
            "before keras and tensorflow, or set %s=1.",
            VARIABLE,
        )
    return used


def _has_avx2():
    return PROCESSORS.exists() and re.search(r"^flags\s*:.*\bavx2\b", PROCESSORS.read_text(), re.MULTILINE) is not None
