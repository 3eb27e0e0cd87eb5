"""Whether TensorFlow computes with oneDNN, whose kernels fuse operations that Eigen's do not."""

import functools


@functools.cache
def one_dnn():
    """Returns whether TensorFlow's graphs run on oneDNN's kernels in this process.

    By default they do on Linux where the processor has AVX-512 VNNI, AVX-VNNI or AMX, and not on older ones with AVX2 alone. The
    environment variable `TF_ENABLE_ONEDNN_OPTS` says otherwise.
    """
    from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public way to ask

    return _pywrap_util_port.IsMklEnabled()
