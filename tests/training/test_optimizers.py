import re

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow, requires_torch
from keras import ops

import keras_vit
from keras_vit.training import SGD, AdamW, Lamb, Muon
from keras_vit.training.optimizers import learning_rate_factors, orthogonal


def tiny_model(**overrides):
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=3)
    return keras_vit.VisionTransformer(**arguments | overrides)


def batch(count=8):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, 8, 8, 3)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, count)]


def test_factors_are_those_of_mae():
    """`get_layer_id_for_vit` of facebookresearch/mae, for 12 blocks: layer 0 to 13."""
    names = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.norm1.weight",
        "blocks.11.mlp.fc2.bias",
        "norm.weight",
        "head.bias",
    ]
    theirs = [0.65 ** (13 - layer) for layer in (0, 0, 0, 1, 12, 13, 13)]
    assert len(names) == len(theirs)
    ours = ["class_token/tokens", "position_embedding/table", "patch_embedding/kernel", "block_0/norm1/gamma", "block_11/mlp/dense2/bias"]
    np.testing.assert_allclose(learning_rate_factors([*ours, "norm/gamma", "head/bias"], 0.65), theirs)


def test_every_weight_of_a_model_has_its_layers_factor():
    model = tiny_model(num_layers=3, stem=dict(kind="conv", filters=(4, 4), strides=(1, 1)), num_register_tokens=1, patch_size=4)
    paths = [v.path for v in model.trainable_variables]
    found = dict(zip(paths, learning_rate_factors(paths, 0.5)))
    for path, factor in found.items():
        block = re.match(r"block_(\d)/", path)
        first = re.match("(stem|patch_embedding|class_token|register_tokens|position_embedding)", path)
        assert factor == (0.5 ** (3 - int(block[1])) if block else 0.0625 if first else 1.0), path
    assert set(found.values()) == {0.0625, 0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("optimizer", [SGD(0.5, layer_decay=0.5), SGD(0.5, momentum=0.9, layer_decay=0.5)])
def test_decay_scales_steps_and_the_clip_sees_whole_gradients(optimizer):
    model = tiny_model()
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    gradients = [np.full(v.shape, 0.1, "float32") for v in model.trainable_variables]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    optimizer.global_clipnorm = 0.01
    optimizer.apply([ops.convert_to_tensor(g) for g in gradients], model.trainable_variables)
    factors = learning_rate_factors([v.path for v in model.trainable_variables], 0.5)
    for variable, old, gradient, factor in zip(model.trainable_variables, before, gradients, factors):
        np.testing.assert_allclose(old - keras.ops.convert_to_numpy(variable), 0.5 * factor * gradient * 0.01 / norm, rtol=2e-2, atol=1e-7)


@pytest.mark.parametrize("cls", [SGD, AdamW, Lamb, Muon])
def test_weight_decay_is_for_kernels_and_goes_with_the_layers_rate(cls):
    model = tiny_model(layer_scale_init=0.1)
    optimizer = cls(0.1, weight_decay=0.5, layer_decay=0.5)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    paths = [v.path for v in model.trainable_variables]
    for variable, factor in zip(model.trainable_variables, learning_rate_factors(paths, 0.5)):
        # Lamb's trust ratio makes the update, half of the weights, as long as the weights.
        expected = 1.0 - (0.1 if cls is Lamb else 0.05) * factor if variable.path.endswith("/kernel") else 1.0
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-5, err_msg=variable.path)


@pytest.mark.parametrize("ours, theirs", [(SGD, keras.optimizers.SGD), (AdamW, keras.optimizers.AdamW)])
def test_without_its_extras_it_is_keras_own(ours, theirs):
    trained = []
    for cls in (ours, theirs):
        keras.utils.set_random_seed(0)
        model = tiny_model()
        optimizer = cls(0.01, weight_decay=0.1, global_clipnorm=0.1)
        if cls is theirs:
            optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if v.name != "kernel"])
        model.compile(optimizer, "categorical_crossentropy")
        model.fit(*batch(), batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
    for one, other in zip(*trained):
        np.testing.assert_allclose(one, other, atol=2e-6)


@requires_torch
@pytest.mark.parametrize("cls, policy", [(SGD, "float32"), (AdamW, "float32"), (AdamW, "bfloat16")])
def test_on_torch_variables_are_updated_together(cls, policy, monkeypatch):
    import torch

    from keras_vit.runtime import updates_on_torch

    monkeypatch.setattr(updates_on_torch, "LARGEST", 1_500)  # two parts for each block
    optimizer = dict(weight_decay=0.1, layer_decay=0.7, global_clipnorm=0.1) | (dict(momentum=0.9) if cls is SGD else {})
    trained, kernels = [], []
    for fast in (True, False):
        keras.utils.set_random_seed(0)
        model = tiny_model(dtype=policy, num_layers=3)
        gradients = [
            torch.linspace(-1.0, 1.0, v.value.numel()).reshape(tuple(v.shape)).to(v.value.dtype) for v in model.trainable_variables
        ]
        own = cls(0.01, **optimizer)
        keras_vit.runtime.use_fast_paths(fast)
        try:
            for _ in range(3):
                with torch.profiler.profile() as profile, torch.no_grad():
                    own.apply(gradients, model.trainable_variables)
        finally:
            keras_vit.runtime.use_fast_paths(True)
        trained.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
        kernels.append(sum(event.name.startswith("aten::") for event in profile.events()))
    for one, other in zip(*trained):
        np.testing.assert_allclose(one, other, **dict(rtol=2e-2) if policy == "bfloat16" else dict(rtol=1e-6, atol=1e-6))
    assert kernels[0] < 0.5 * kernels[1]


def test_lamb_is_algorithm_2():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 4)), rng.normal(size=(4,))
    layer = keras.layers.Dense(4, name="layer")
    layer.build((None, 3))
    layer.kernel.assign(weight)
    layer.bias.assign(bias)
    optimizer = Lamb(0.1, weight_decay=0.2, beta_1=0.9, beta_2=0.99, epsilon=1e-6)
    moments = [np.zeros((2, 3, 4)), np.zeros((2, 4))]
    for step in range(1, 4):
        gradients = [rng.normal(size=(3, 4)), rng.normal(size=(4,))]
        optimizer.apply([ops.convert_to_tensor(g, "float32") for g in gradients], [layer.kernel, layer.bias])
        for i, (gradient, decay) in enumerate(zip(gradients, (0.2, 0.0))):
            moments[i] = np.stack([0.9 * moments[i][0] + 0.1 * gradient, 0.99 * moments[i][1] + 0.01 * gradient**2])
            mean, square = moments[i][0] / (1 - 0.9**step), moments[i][1] / (1 - 0.99**step)
            update = mean / (np.sqrt(square) + 1e-6)
            if decay:
                update = update + decay * weight
                weight = weight - 0.1 * np.linalg.norm(weight) / np.linalg.norm(update) * update
            else:
                bias = bias - 0.1 * update
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.kernel), weight, rtol=1e-4)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.bias), bias, rtol=1e-4)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (3, 3, 8, 32)])
def test_muon_moves_kernels_in_all_directions_alike(shape):
    """Jordan et al.: singular values come between about 0.7 and 1.2. Liu et al.: the root mean square is then about 0.2."""
    values = np.linalg.svd(np.random.default_rng(0).normal(size=(np.prod(shape[:-1]), shape[-1])), full_matrices=False)
    kernel = (values[0] * np.geomspace(1.0, 0.05, len(values[1]))) @ values[2]
    update = keras.ops.convert_to_numpy(orthogonal(ops.convert_to_tensor(kernel.reshape(shape), "float32"))).reshape(kernel.shape)
    rest = values[0].T @ update @ values[2].T / (0.2 * max(kernel.shape) ** 0.5)
    assert 0.65 < np.diag(rest).min() and np.diag(rest).max() < 1.25
    assert np.abs(rest - np.diag(np.diag(rest))).max() < 1e-3
    assert 0.15 < np.sqrt((update**2).mean()) < 0.25


def test_muon_is_adamw_where_there_is_no_hidden_matrix():
    trained = []
    for cls in (Muon, AdamW):
        keras.utils.set_random_seed(0)
        model = tiny_model()
        keras_vit.training.freeze(model, "all")
        model.compile(cls(0.01, weight_decay=0.1), "categorical_crossentropy")
        model.fit(*batch(), batch_size=4, epochs=2, shuffle=False, verbose=0)
        trained.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
    for one, other in zip(*trained):
        # On torch AdamW updates all variables at once, and rounds differently.
        np.testing.assert_allclose(one, other, atol=1e-6 if keras.backend.backend() == "torch" else 0.0, rtol=0.0)


def test_muon_learns():
    model = tiny_model(num_layers=3, stem=dict(kind="conv", filters=(4, 4), strides=(1, 1)))
    model.compile(Muon(0.01, weight_decay=0.1, layer_decay=0.9, global_clipnorm=1.0), "categorical_crossentropy")
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    history = model.fit(*batch(), epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert all((keras.ops.convert_to_numpy(v) != before[v.path]).any() for v in model.trainable_variables)


def test_a_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\). Received: momentum=1.0"):
        Muon(momentum=1.0)


@pytest.mark.parametrize("cls", [SGD, AdamW, *(pytest.param(cls, marks=pytest.mark.slow) for cls in (Lamb, Muon))])
def test_a_saved_model_goes_on_as_it_would_have(tmp_path, cls):
    """Keras's own `exclude_from_weight_decay` is lost in a saved file."""
    model = tiny_model()
    model.compile(cls(0.01, weight_decay=0.5, layer_decay=0.7, global_clipnorm=1.0), "categorical_crossentropy")
    model.fit(*batch(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is cls and loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(*batch(), verbose=0, shuffle=False)
    for one, other in zip(model.trainable_variables, loaded.trainable_variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other), atol=1e-7)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    model = tiny_model(dtype=policy)
    model.compile(AdamW(0.01, weight_decay=0.1, layer_decay=0.7, global_clipnorm=1.0), "categorical_crossentropy")
    history = model.fit(*batch(), epochs=10, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.slow
@requires_tensorflow
def test_compiled_by_xla_it_is_the_same():
    trained = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        model = tiny_model()
        optimizer = SGD(0.1, momentum=0.9, weight_decay=0.1, layer_decay=0.7, global_clipnorm=0.1)
        model.compile(optimizer, "categorical_crossentropy", jit_compile=jit_compile)
        model.fit(*batch(), batch_size=4, epochs=3, shuffle=False, verbose=0)
        trained.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
    for one, other in zip(*trained):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_layer_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`layer_decay` must lie in \(0, 1\]. Received: layer_decay=0.0"):
        AdamW(layer_decay=0.0)


@requires_torch
def test_an_update_is_one_graph_of_torch():
    import torch

    variables = [keras.Variable(np.ones((2, 3), "float32"), name=name) for name in ("kernel", "bias")]
    optimizer = AdamW(0.01, weight_decay=0.1, layer_decay=0.75, global_clipnorm=1.0)
    optimizer.build(variables)
    gradients = [torch.ones_like(variable.value) for variable in variables]
    torch.compile(lambda: optimizer.apply(gradients, variables), backend="eager", fullgraph=True)()
    assert all(np.all(keras.ops.convert_to_numpy(variable) < 1.0) for variable in variables)
