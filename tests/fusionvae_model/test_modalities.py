"""Inputs with other channels than the target, through encoders of their own; last of all, rendered depth helps."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from variants import TINY

from fusion_datasets.rendering import Camera, Scene, look_at, read_ply
from fusion_datasets.rendering.solids import solid
from fusionvae_model import FusionVAE, FusionVAEError
from fusionvae_model.data import TrainingSet

VARIANTS = {
    "max-add": {},
    "mean-all": {"aggregation": "mean-all"},
    "bayes-add": {"aggregation": "bayes-add"},
    "pool-add": {"aggregation": "pool-add"},
    "q(x, y)": {"posterior": "xy"},
}
SIDE = TINY.image_size
NEAR_MM, FAR_MM = 560.0, 720.0
"""Between them every object lies, seen from T-LESS's distance."""
BATCH = 32
STEPS = 100


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=VARIANTS)
def model(request):
    """An untrained model of grey images beside which there may be images of two channels and of one."""
    torch.manual_seed(0)
    return FusionVAE(dataclasses.replace(TINY, modalities=(2, 1), **VARIANTS[request.param])).double()


@pytest.fixture
def images():
    """Targets, inputs of their kind, and inputs of the two other kinds."""
    generator = noise(7)

    def draw(*shape):
        return torch.rand(4, *shape, SIDE, SIDE, generator=generator, dtype=torch.double)

    return draw(1), draw(3, 1), [draw(2, 2), draw(1, 1)]


def test_a_model_of_one_modality_is_what_it_was():
    """Names, counts and the order in which weights are drawn."""
    seeded = []
    for modalities in ((), (1,)):
        torch.manual_seed(0)
        seeded.append(FusionVAE(dataclasses.replace(TINY, modalities=modalities)).state_dict())
    one, two = seeded
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    further = two.keys() - one.keys()
    assert further
    assert {name.split(".")[0] for name in further} == {"other_encoders"}


def test_neither_the_order_nor_the_modality_listed_first_matters(model, images):
    target, inputs, others = images
    turned = [images.flip(1) for images in others]
    for call in (
        lambda x, others: model.train()(target, x, others=others, generator=noise()).nats,
        lambda x, others: model.sample(x, others=others, num_samples=2, generator=noise()),
    ):
        torch.testing.assert_close(call(inputs, others), call(inputs[:, [2, 0, 1]], turned), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (2, 0), (0, 2), (1, 1)])
def test_any_number_of_either_works_and_each_is_looked_at(model, images, k, n):
    target, inputs, (first, second) = images
    inputs, others = inputs[:, :k], [first[:, :n], second[:, :0]]
    model.eval()
    nats = model.elbo(target, inputs, others=others, generator=noise())
    assert nats.isfinite().all()
    if n == 0:
        assert torch.equal(nats, model.elbo(target, inputs, generator=noise()))
    else:
        changed = model.elbo(target, inputs, others=[1 - others[0], others[1]], generator=noise())
        assert not torch.allclose(nats, changed, rtol=0, atol=1e-9)
    if k:
        changed = model.elbo(target, 1 - inputs, others=others, generator=noise())
        assert not torch.allclose(nats, changed, rtol=0, atol=1e-9)
    samples = model.sample(None if k == 0 else inputs, batch_size=4, others=others, num_samples=2, generator=noise())
    assert samples.shape == (4, 2, 1, SIDE, SIDE)


def test_the_others_alone_tell_how_many_images_to_sample(model, images):
    _, _, others = images
    assert model.sample(others=others).shape == (4, 1, 1, SIDE, SIDE)


def test_an_input_of_any_modality_weighs_as_one_element_of_the_set():
    """Twice the encoder under another name: it does not matter through which of the two an input comes."""
    for aggregation in ("max-add", "mean-add", "bayes-all"):
        torch.manual_seed(0)
        model = FusionVAE(dataclasses.replace(TINY, modalities=(1,), aggregation=aggregation)).double().eval()
        model.other_encoders[0].load_state_dict(model.encoder.state_dict())
        target, inputs = (torch.rand(2, *shape, SIDE, SIDE, dtype=torch.double) for shape in ((1,), (3, 1)))
        here = model.elbo(target, inputs, generator=noise())
        there = model.elbo(target, inputs[:, :1], others=[inputs[:, 1:]], generator=noise())
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_prefixes_of_the_inputs_are_scored_beside_all_of_the_others(model, images):
    target, inputs, others = images
    settings = {"num_samples": 3, "others": others}
    together = model.log_importance_weights(target, inputs, num_inputs=(0, 1, 3), generator=noise(), **settings)
    assert together.shape == (4, 3, 3)
    for column, k in enumerate((0, 1, 3)):
        alone = model.log_importance_weights(target, inputs[:, :k], generator=noise(), **settings)
        torch.testing.assert_close(together[:, column], alone, rtol=1e-6, atol=1e-3)  # the heads are float32


def test_every_encoder_gets_a_gradient_where_it_has_inputs(model, images):
    target, inputs, (first, second) = images
    model.train().elbo(target, inputs, others=[first, second[:, :0]]).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {f"{encoder}.stem.weight" for encoder in ("encoder", "other_encoders.0")} <= reached
    assert not any(name.startswith("other_encoders.1.") for name in reached)


def test_a_folder_and_folding_keep_every_encoder(model, images, tmp_path):
    _, inputs, others = images
    model.float().eval().to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    loaded = FusionVAE.from_pretrained(tmp_path)
    assert loaded.config == model.config
    inputs, others = inputs.float(), [images.float() for images in others]
    expected = model.sample(inputs, others=others, generator=noise())
    assert torch.equal(loaded.sample(inputs, others=others, generator=noise()), expected)
    torch.testing.assert_close(loaded.folded().sample(inputs, others=others, generator=noise()), expected)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda others: others[:1],
        lambda others: others[::-1],
        lambda others: [images[:2] for images in others],
        lambda others: [images[..., :8] for images in others],
        lambda others: [images[:, 0] for images in others],
    ],
)
def test_other_shapes_are_refused_in_one_sentence(model, images, spoil):
    target, inputs, others = images
    with pytest.raises(FusionVAEError, match=r"further modalities have shapes .* expects .*'n', 2, 16, 16") as caught:
        model.elbo(target, inputs, others=spoil(others))
    assert "\n" not in str(caught.value)


def test_a_benchmark_file_has_one_modality(data_file):
    data = TrainingSet(data_file, seed=0)
    config = dataclasses.replace(TINY, image_size=32, nll_size=28, modalities=(1,))
    with pytest.raises(FusionVAEError, match="which no benchmark file holds; train it from Python"):
        data.check_fits(config)


@pytest.fixture(scope="module", params=["built-in solids", pytest.param("CAD models", marks=pytest.mark.originals)])
def objects(request):
    """Two of T-LESS's targets and occluders: the solids that stand in for them, and the CAD models themselves."""
    pytest.importorskip("numba")
    if request.param == "built-in solids":
        return [solid(object_id) for object_id in (5, 23)]
    models = Path(os.environ["FUSION_DATA_ROOT"]) / "tless" / "models_cad"
    if not models.is_dir():
        pytest.skip(f"{models} is no folder; expected the CAD models of T-LESS")
    return [read_ply(models / f"obj_{object_id:02d}.ply") for object_id in (5, 23)]


@pytest.fixture(scope="module")
def views(objects):
    """Views of the objects from everywhere: grey pictures and depth, nearer being brighter, ``[n, 1, h, w]``."""
    camera = Camera((84.0, 84.0), ((SIDE - 1) / 2, (SIDE - 1) / 2), SIDE)
    generator = np.random.default_rng(0)
    pictures, depths = [], []
    for mesh in objects:
        scene = Scene(mesh)
        for _ in range(160):
            view = scene.render(look_at(generator.uniform(5, 85), generator.uniform(0, 360)), camera)
            pictures.append(view.image.mean(axis=2) / 255)
            depths.append(np.where(view.mask, (FAR_MM - view.depth_mm) / (FAR_MM - NEAR_MM), 0).clip(0, 1))
    order = generator.permutation(len(pictures))
    return tuple(torch.tensor(np.array(part)[order, None], dtype=torch.float32) for part in (pictures, depths))


def test_depth_tells_the_picture(views):
    """Trained with depth in every second step: on held-out views it lowers bound and error, another view's does not."""
    pictures, depths = views
    torch.manual_seed(0)
    model = FusionVAE(dataclasses.replace(TINY, groups_per_scale=(1,), modalities=(1,))).train()
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01, eps=1e-3)
    generator, train = noise(1), len(pictures) - 64
    for step in range(STEPS):
        rows = torch.randint(train, (BATCH,), generator=generator)
        optimizer.zero_grad()
        bound = model(
            pictures[rows],
            pictures.new_empty(BATCH, 0, 1, SIDE, SIDE),
            others=[depths[rows, None]] if step % 2 else [],
            generator=generator,
        )
        loss = bound.kl.sum(dim=1).mean() * min(1.0, 2 * step / STEPS) - bound.log_likelihood.mean()
        loss.backward()
        optimizer.step()
    model.eval()
    target, depth = pictures[train:], depths[train:, None]
    none = target.new_empty(len(target), 0, 1, SIDE, SIDE)
    nats, errors = {}, {}
    for name, others in {"nothing": [], "depth": [depth], "another's": [depth.roll(1, dims=0)]}.items():
        with torch.no_grad():
            nats[name] = float(model.elbo(target, none, others=others, generator=noise(2)).mean())
        drawn = model.sample(none, others=others, num_samples=8, generator=noise(3)).mean(dim=1)
        errors[name] = float((drawn - target).square().mean())
    assert nats["depth"] > nats["nothing"] + 5
    assert errors["depth"] < 0.6 * errors["nothing"]
    assert nats["another's"] < nats["depth"] - 5
    assert errors["another's"] > 1.5 * errors["depth"]
