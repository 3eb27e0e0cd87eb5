import math

import keras
import numpy as np
import pytest
from helpers import (
    all_or,
    assert_close,
    check_layer,
    loss_and_gradients,
    mean_square,
    random_inputs,
    randomize,
    requires_tensorflow,
    to_numpy,
)

from keras_vit.layers import TransformerEncoderBlock

BASE = {"num_heads": 2, "mlp_dim": 12}
RANDOM = {"dropout_rate": 0.3, "attention_dropout_rate": 0.2, "drop_path_rate": 0.4}
gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mlp": "swiglu", "layer_scale_init": 0.1, "qk_norm": True, "use_qkv_bias": False},
        {"norm_first": False, "norm_branches": True, "activation": "gelu_tanh", "norm_epsilon": 1e-5, "mlp_norm": True},
        {"remat": True},
    ],
)
def test_layer(more, other_process):
    check_layer(
        TransformerEncoderBlock, {**BASE, **more}, (2, 5, 8), output_shape=(2, 5, 8), other_process=other_process, half_tolerance=0.05
    )


def norm(x, layer):
    gamma, beta = to_numpy(layer.gamma), to_numpy(layer.beta)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta


def feed_forward(x, layer):
    hidden = gelu(x @ to_numpy(layer.fc1.kernel) + to_numpy(layer.fc1.bias))
    return hidden @ to_numpy(layer.fc2.kernel) + to_numpy(layer.fc2.bias)


@pytest.mark.parametrize("layer_scale_init", [None, 0.5])
@pytest.mark.parametrize("norm_first, norm_branches", [(True, False), (False, False), (False, True)])
def test_equations(norm_first, norm_branches, layer_scale_init):
    """Equations 2 and 3 of the paper; with the norm after the sum, those of the original Transformer; after the branch, EVA-02-E's."""
    (tokens,) = random_inputs((2, 5, 8))
    block = TransformerEncoderBlock(**BASE, norm_first=norm_first, norm_branches=norm_branches, layer_scale_init=layer_scale_init)
    block.build(tokens.shape)
    randomize(block)
    scale1, scale2 = (1.0, 1.0) if layer_scale_init is None else (to_numpy(s.gamma) for s in (block.layer_scale1, block.layer_scale2))
    attention = lambda x: to_numpy(block.attention(x.astype("float32")))  # noqa: E731 (tested on its own)
    x = tokens
    if norm_first:
        x = x + scale1 * attention(norm(x, block.norm1))
        x = x + scale2 * feed_forward(norm(x, block.norm2), block.mlp)
    elif norm_branches:
        x = x + scale1 * norm(attention(x), block.norm1)
        x = x + scale2 * norm(feed_forward(x, block.mlp), block.norm2)
    else:
        x = norm(x + scale1 * attention(x), block.norm1)
        x = norm(x + scale2 * feed_forward(x, block.mlp), block.norm2)
    assert_close(block(tokens), x)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"norm_first": False},
        {"qk_norm": True, "use_qkv_bias": "query_value", "layer_scale_init": 0.1, "attention_norm": True, "mlp_norm": True},
        {"remat": True, "norm_first": False, "norm_branches": True},
    ],
)
@pytest.mark.parametrize("num_queries", all_or("1")([1, 2]))
def test_num_queries_gives_the_first_tokens_of_the_whole(more, num_queries):
    (tokens,) = random_inputs((3, 5, 8))
    block = TransformerEncoderBlock(**BASE, **more)
    block.build(tokens.shape)
    randomize(block)
    assert block(keras.KerasTensor((None, None, 8)), num_queries=num_queries).shape == (None, num_queries, 8)
    for training in (False, True):
        assert_close(block(tokens, num_queries=num_queries, training=training), block(tokens)[:, :num_queries], 1e-6)


def test_activation_defaults_to_that_of_the_feed_forward_network():
    for mlp, activation in (("mlp", "gelu"), ("swiglu", "silu")):
        block = TransformerEncoderBlock(**BASE, mlp=mlp)
        block.build((None, 5, 8))
        assert block.mlp.activation == activation and block.get_config()["activation"] is None


def test_drop_path_leaves_the_sample_as_it_is():
    (tokens,) = random_inputs((64, 5, 8))
    block = TransformerEncoderBlock(**BASE, drop_path_rate=0.5)
    result = to_numpy(block(tokens, training=True))
    untouched = (result == tokens).all(axis=(1, 2)).mean()
    assert 0.1 < untouched < 0.45  # both branches dropped: a quarter


def remat_pair(num_blocks=2, **more):
    """Two models with the same weights and generators, one with `remat`."""
    models = []
    for remat in (False, True):
        keras.utils.set_random_seed(1)
        x = inputs = keras.Input((5, 8))
        for _ in range(num_blocks):
            x = TransformerEncoderBlock(**BASE, **more, remat=remat)(x)
        models.append(randomize(keras.Model(inputs, x)))
    return models


def seeded_loss_and_gradients(model, tokens, seed):
    keras.utils.set_random_seed(seed)  # torch's dropout draws from torch's own generator
    return loss_and_gradients(model, tokens)


@pytest.mark.parametrize("more", [{}, RANDOM, {"drop_path_rate": 0.4, "mlp": "swiglu", "layer_scale_init": 0.5}])
def test_remat_has_the_same_loss_and_gradients(more):
    """Also with random masks: the second forward pass must draw those of the first. Twice, since the generators go on."""
    (tokens,) = random_inputs((4, 5, 8))
    plain, remat = remat_pair(**more)
    losses = []
    for step in range(2):
        (loss, gradients), (remat_loss, remat_gradients) = (seeded_loss_and_gradients(model, tokens, step) for model in (plain, remat))
        assert_close(remat_loss, loss, 1e-6)
        for ours, theirs in zip(remat_gradients, gradients, strict=True):
            assert_close(ours, theirs)
        losses.append(float(loss))
    assert (losses[0] != losses[1]) == bool(more)


@requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_remat_in_fit(jit_compile):
    (tokens,) = random_inputs((4, 5, 8))
    histories = []
    for model in remat_pair(1, **RANDOM):
        model.compile(keras.optimizers.SGD(0.01), mean_square, jit_compile=jit_compile)
        histories.append(model.fit(tokens, np.zeros((4, 1)), batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)


@requires_tensorflow
def test_remat_computes_a_block_again(monkeypatch):
    (tokens,) = random_inputs((4, 5, 8))
    calls, forward = [], TransformerEncoderBlock._forward
    monkeypatch.setattr(TransformerEncoderBlock, "_forward", lambda self, *args: calls.append(self.remat) or forward(self, *args))
    for model in remat_pair():
        loss_and_gradients(model, tokens)
    assert calls.count(False) == 2 and calls.count(True) == 4


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a matter of JAX alone")
def test_remat_keeps_less_on_jax():
    """XLA takes Keras's `remat` back on a processor."""
    import jax

    def kept(model):
        def loss(weights, tokens):
            outputs, _ = model.stateless_call(weights, model.non_trainable_variables, tokens, training=True)
            return (outputs**2).mean()

        weights = [weight.value for weight in model.trainable_variables]
        return jax.jit(jax.grad(loss)).lower(weights, np.ones((64, 5, 8), "float32")).compile().memory_analysis().temp_size_in_bytes

    plain, remat = map(kept, remat_pair(num_blocks=8))
    assert remat < 0.5 * plain


@pytest.mark.parametrize(
    "more, argument",
    [
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 3}, "num_heads"),
        ({"mlp_dim": 0}, "mlp_dim"),
        ({"mlp": "moe"}, "mlp"),
        ({"mlp": ["mlp"]}, "mlp"),
        ({"activation": "gleu"}, "activation"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"attention_dropout_rate": 2}, "attention_dropout_rate"),
        ({"drop_path_rate": -1}, "drop_path_rate"),
    ],
)
def test_bad_arguments(more, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        TransformerEncoderBlock(**{**BASE, **more}).build((None, 5, 8))
