"""Compiled code, bf16 and channels-last compute what plain float32 does; on a GPU nothing waits for it."""

import ctypes
import functools
import platform
import re
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

from fusionvae_model import FusionVAEError
from fusionvae_model.device import compiled, keep_freed_memory, subnormals_as_zero
from fusionvae_model.resampling import upsample_twofold
from fusionvae_model.step import TrainingStep


def take_steps(trainer, count=2):
    """Take steps with every number of inputs; return what the last said."""
    for step in range(count):
        for k in range(4):
            values = trainer.train_step(trainer.batch(step, num_inputs=k), step)
    return values


def assert_close(values, reference, tolerance):
    for name in ("loss", "reconstruction_nats", "kl_per_group"):
        torch.testing.assert_close(values[name], reference[name], rtol=tolerance, atol=10 * tolerance)


def compile_whole(monkeypatch, backend):
    """Let PyTorch compile by a backend, and only what it captures without a break."""
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **_: compile_with(model, dynamic=False, backend=backend, fullgraph=True)
    )


def test_bound_is_float32_under_bf16(quick_trainer):
    trainer = quick_trainer(precision="bf16")
    batch = trainer.batch(0, num_inputs=2)
    bound, _ = trainer.state._bound(batch, 0, slice(0, 12))
    assert (bound.log_likelihood.dtype, bound.kl.dtype) == (torch.float32, torch.float32)
    exact, _ = quick_trainer().state._bound(batch, 0, slice(0, 12))
    torch.testing.assert_close(bound.nats, exact.nats, rtol=0.02, atol=0.0)
    assert not torch.equal(bound.nats, exact.nats)


def test_what_a_finished_model_returns_under_autocast_is_float32(tiny_model):
    side = tiny_model.config.image_size
    pictures = torch.rand(3, 4, 1, side, side, generator=torch.Generator().manual_seed(1))
    target, inputs = pictures[:, 0], pictures[:, 1:]
    model = tiny_model.eval().folded()

    def results():
        seeded = torch.Generator().manual_seed(0)
        yield model.sample(inputs, num_samples=2, generator=seeded)
        yield model.log_importance_weights(target, inputs, num_samples=2, num_inputs=(0, 2), generator=seeded)

    exact = list(results())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = list(results())
    for a, b, rtol, atol in zip(exact, rounded, (0.0, 0.01), (0.05, 0.0), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
        assert not torch.equal(a, b)


PASSES_THAT_FREE_MUCH = """
import resource, sys
import torch
from fusionvae_model.device import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def new_pages_of_a_pass():
    before = faults()
    blocks = [torch.ones(1 << 24) for _ in range(4)]
    del blocks
    return faults() - before

new_pages_of_a_pass()
print(min(new_pages_of_a_pass() for _ in range(8)))  # the first few may still grow the heap
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept_for_the_next_pass(python):
    kept, returned = (int(python(PASSES_THAT_FREE_MUCH, word).stdout) for word in ("keep", "leave"))
    assert kept * 10 < returned


SUBNORMAL_PRODUCTS = """
import sys
import torch
from fusionvae_model import tune_process

torch.set_num_threads(2)
if sys.argv[1] == "tuned":
    tune_process()
product = torch.full((1 << 22,), 1e-20) * 1e-20
print(int((product == 0).sum()), int(product.count_nonzero()))
"""


def test_subnormal_numbers_count_as_zero_on_every_thread(python):
    tuned, plain = (python(SUBNORMAL_PRODUCTS, word).stdout.split() for word in ("tuned", "plain"))
    assert (tuned, plain) == ([str(1 << 22), "0"], ["0", str(1 << 22)])


def test_subnormal_numbers_count_again_afterwards():
    def fail_within():
        with subnormals_as_zero():
            seen.append(product())
            with subnormals_as_zero():
                seen.append(product())
            seen.append(product())
            raise KeyError

    def product():
        return int((torch.full((8,), 1e-20) * 1e-20).count_nonzero())

    seen = [product()]
    with pytest.raises(KeyError):
        fail_within()
    assert [*seen, product()] == [8, 0, 0, 0, 8]


def test_training_leaves_the_process_as_it_was(quick_train, tmp_path, monkeypatch):
    seen, step = [], TrainingStep.take

    def take(self, *arguments):
        seen.append(float(torch.tensor(1e-39) * 1))
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "take", take)
    quick_train(tmp_path / "run", epochs=1)
    assert set(seen) == {0.0}
    assert torch.tensor(1e-39) * 1 > 0


@pytest.mark.parametrize(("most", "accepted"), [(1 << 30, 1 << 30), (1 << 25, 1 << 25)])
def test_older_allocators_keep_blocks_of_the_size_they_allow(most, accepted, monkeypatch):
    kept = {}

    def mallopt(parameter, value):
        if parameter == -3 and value > most:
            return 0
        kept[parameter] = value
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert kept == {-3: accepted, -1: (1 << 31) - 1}


def test_channels_last_changes_the_layout_alone(quick_trainer):
    plain, fast = quick_trainer(), quick_trainer()
    plain.model.to(memory_format=torch.contiguous_format)
    assert_close(take_steps(plain, 1), take_steps(fast, 1), 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    "overrides", [(), ("every_k=true", "importance_samples=2", "prior_draws=2", "beta_fraction=0")]
)
def test_compiled_step_is_the_plain_one(overrides, quick_trainer, monkeypatch):
    """The whole pass is captured without a break; kernels are left plain here, since fusing them takes minutes."""
    compile_whole(monkeypatch, "eager")
    plain, fast = (quick_trainer(overrides=overrides, compile_code=choice) for choice in (False, True))
    values = [trainer.train_step(trainer.batch(0, num_inputs=2), 0) for trainer in (plain, fast)]
    for name, value in values[0].items():
        # up to rounding: the plain step normalises many weights at once
        torch.testing.assert_close(
            values[1][name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


SHALLOW = ("preprocessing_blocks=1", "groups_per_scale=[2]")
"""One cell of each kind but two of the encoder's; kernels of more take minutes to compile."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("device", "tolerance"),
    [
        pytest.param("cpu", 1e-4, marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")),
        pytest.param("cuda", 1e-2, marks=pytest.mark.cuda),
    ],
)
def test_fused_kernels_give_the_plain_gradient(device, tolerance, quick_trainer):
    """The kernels as they are used; a loss after a few steps tells too little of the gradient."""
    gradients = []
    for choice in (False, True):
        trainer = quick_trainer(device=device, compile_code=choice, overrides=SHALLOW)
        trainer.train_step(trainer.batch(0, num_inputs=1), 0)
        gradients.append(trainer.state.parameters.gradient().clone())
    plain, fused = gradients
    assert torch.linalg.vector_norm(fused - plain) < tolerance * torch.linalg.vector_norm(plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_compiled_code_never_sums_into_computed_places(quick_trainer, monkeypatch):
    """What is scattered is changed in place, which PyTorch's compiler has put after its readers."""
    operations = Counter()

    def noted(graph, _):
        operations.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    compile_whole(monkeypatch, aot_autograd(fw_compiler=noted, bw_compiler=noted, decompositions=select_decomp_table()))
    overrides = ("likelihood=logistic-mixture", "every_k=true", "importance_samples=2", "beta_fraction=0")
    trainer = quick_trainer(overrides=overrides, compile_code=True)
    trainer.train_step(trainer.batch(0, num_inputs=2), 0)
    assert operations["aten.convolution.default"] > 20
    assert operations["aten.convolution_backward.default"] > 20
    assert not [name for name in operations if re.search("index_put|index_add|scatter_add|scatter_reduce", name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 5), (3, 2, 8, 2)])
def test_upsampling_by_products_is_the_interpolation(shape, dtype, monkeypatch):
    features = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        doubled = upsample_twofold(features)
        (gradient,) = torch.autograd.grad(doubled.float().square().sum(), features)
        results.append((doubled, gradient))
    torch.testing.assert_close(*results)


def test_without_a_compiler_one_sentence(quick_trainer, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FusionVAEError, match=r"needs a C\+\+ compiler and found none; install g\+\+ or leave it out"):
        quick_trainer(compile_code=True)


@pytest.mark.parametrize(("module", "said"), [("torch._inductor.exc", "leave out --compile"), ("torch", "^too short$")])
def test_failed_compilation_is_one_sentence_and_other_failures_are_not(module, said, quick_trainer):
    def fail(*_, **__):
        raise type("Failure", (RuntimeError,), {"__module__": module})("too short")

    trainer = quick_trainer()
    trainer.state._forward = fail
    with pytest.raises(RuntimeError if module == "torch" else FusionVAEError, match=said):
        trainer.train_step(trainer.batch(0), 0)


@pytest.fixture
def cuda_trainer(quick_trainer):
    """`cuda_trainer(**options)`: a trainer of the quick preset on the GPU."""
    return functools.partial(quick_trainer, device="cuda")


@pytest.mark.cuda
@pytest.mark.parametrize(("options", "tolerance"), [({"precision": "bf16"}, 0.03), ({"compile_code": True}, 1e-2)])
def test_fast_path_on_the_gpu_is_the_plain_one(options, tolerance, cuda_trainer):
    assert_close(take_steps(cuda_trainer(**options)), take_steps(cuda_trainer()), tolerance)


@pytest.mark.cuda
def test_channels_last_on_the_gpu_changes_the_layout_alone(cuda_trainer):
    plain, fast = cuda_trainer(), cuda_trainer()
    plain.model.to(memory_format=torch.contiguous_format)
    assert_close(take_steps(plain), take_steps(fast), 1e-2)


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{}, {"precision": "bf16", "overrides": ("ema=0.9",)}])
def test_nothing_waits_for_the_gpu(options, cuda_trainer):
    trainer = cuda_trainer(**options)
    take_steps(trainer)  # everything that is built once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for k in range(4):
            batch = trainer.batch(1, num_inputs=k)
            assert batch.inputs.is_cuda
            trainer.log.add(trainer.train_step(batch, 1), len(batch.target), k)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.guard.report() == []


@pytest.mark.cuda
def test_compiled_model_on_the_gpu_needs_no_compiler_for_the_cpu(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    compiled(torch.nn.Linear(1, 1).cuda(), torch.device("cuda"))
