"""Choosing an engine, doing without the compiled library, and building it."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loguru import logger
from sparse_scene import scene

from core.errors import UserError
from core.sparse import (
    Conv3d,
    SparseTensor,
    convolve,
    devoxelize,
    get_backend,
    kernel_map,
    library_status,
    set_backend,
)
from core.sparse import build as building
from core.sparse import library as loading
from core.sparse.backends import native, torch_ref
from core.sparse.backends import spconv as spconv_backend

VARIABLE = "LIDISTILL_SPARSE_BACKEND"
needs_compiler = pytest.mark.skipif(building.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def default_backend(monkeypatch):
    """Nothing chosen, whatever the environment of the test run says."""
    monkeypatch.delenv(VARIABLE, raising=False)
    set_backend(None)
    yield
    set_backend(None)


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """Names of the engines whose ``convolve`` ran."""
    names: list[str] = []
    engines = {"native": native.convolve, "torch": torch_ref.convolve, "spconv": torch_ref.convolve}
    for name, module in {"native": native, "torch": torch_ref, "spconv": spconv_backend}.items():

        def record(*args, name=name):
            names.append(name)
            return engines[name](*args)

        monkeypatch.setattr(module, "convolve", record)
    return names


@pytest.fixture
def threads():
    """Setter of the number of threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def problem(dtype=torch.float32):
    """Features [60, 5], kernel [27, 5, 4] and map of a small convolution."""
    x = scene(60, 5, size=6, dtype=dtype)
    kernel = torch.randn(
        27, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)
    return x.feats, kernel, kernel_map(x.cache, (1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1))


# --- choosing -----------------------------------------------------------------------------------------------------


def test_native_unless_told(called):
    assert get_backend() == "native"
    x, kernel, kmap = problem()
    convolve(x, kernel, None, kmap)
    assert called == ["native"]


@pytest.mark.parametrize("name", ["native", "torch", "spconv"])
def test_environment_chooses(monkeypatch, called, name):
    monkeypatch.setenv(VARIABLE, name)
    assert get_backend() == name
    x, kernel, kmap = problem()
    convolve(x, kernel, None, kmap)
    assert called == [name]


def test_set_backend_goes_before_the_environment_and_a_layer_before_both(monkeypatch, called):
    monkeypatch.setenv(VARIABLE, "spconv")
    set_backend("torch")
    assert get_backend() == "torch"
    x = scene(60, 5, dtype=torch.float32)
    Conv3d(5, 4)(x)
    Conv3d(5, 4, backend="native")(x)
    set_backend(None)
    assert get_backend() == "spconv"
    assert called == ["torch", "native"]


def test_unknown_name_in_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, "nativ")
    with pytest.raises(
        UserError,
        match=rf"{VARIABLE}.*unknown sparse backend 'nativ'; known: native, torch, spconv",
    ):
        get_backend()


def test_native_leaves_float64_to_pytorch(called):
    x, kernel, kmap = problem(torch.float64)
    convolve(x, kernel, None, kmap)
    assert called == ["native", "torch"]


# --- spconv -------------------------------------------------------------------------------------------------------


def test_spconv_missing(monkeypatch, threads):
    threads(1)
    monkeypatch.setitem(sys.modules, "spconv", None)
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    x, kernel, kmap = problem()
    with pytest.raises(
        UserError, match=r"not installed.*requirements-gpu\.txt.*LIDISTILL_SPARSE_BACKEND"
    ):
        convolve(x, kernel, None, kmap, "spconv")


def test_spconv_on_cpu_is_refused_where_it_is_wrong(threads):
    x, kernel, kmap = problem()
    threads(2)
    with pytest.raises(UserError, match=r"more than one thread.*native backend"):
        convolve(x, kernel, None, kmap, "spconv")
    threads(1)
    for wants_gradient in (0, 1):
        pair = [x.clone(), kernel.clone()]
        pair[wants_gradient].requires_grad_()
        with pytest.raises(UserError, match="no backward"):
            convolve(*pair, None, kmap, "spconv")


def pair_lists(pairs, counts):
    """(offset, input rows, output rows) of spconv's padded index pairs."""
    for k, count in enumerate(counts.tolist()):
        assert (pairs[:, k, count:] == -1).all()
        yield k, pairs[0, k, :count].long(), pairs[1, k, :count].long()


def fake_forward(x, filters, pairs, counts, n_out):
    """What spconv documents: filters [Cout, K, Cin], pairs i32 [2, K, P], counts i32 [K]."""
    y = x.new_zeros(n_out, filters.shape[0])
    for k, rows_in, rows_out in pair_lists(pairs, counts):
        y.index_add_(0, rows_out, x[rows_in] @ filters[:, k].T)
    return y


def fake_backward(x, filters, grad, pairs, counts):
    grad_x, grad_filters = torch.zeros_like(x), torch.zeros_like(filters)
    for k, rows_in, rows_out in pair_lists(pairs, counts):
        grad_x.index_add_(0, rows_in, grad[rows_out] @ filters[:, k])
        grad_filters[:, k] = grad[rows_out].T @ x[rows_in]
    return grad_x, grad_filters


def test_spconv_gets_pairs_and_filters_in_its_layout(monkeypatch):
    ops = SimpleNamespace(indice_conv=fake_forward, indice_conv_backward=fake_backward)
    monkeypatch.setattr(spconv_backend, "_ops", lambda: ops)
    x, kernel, kmap = problem(torch.float64)
    results = []
    for function in (
        spconv_backend._Convolution.apply,
        lambda f, w, m: torch_ref.convolve(f, w, None, m),
    ):
        leaves = [x.clone().requires_grad_(), kernel.clone().requires_grad_()]
        y = function(*leaves, kmap)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for ours, reference in zip(*results):
        torch.testing.assert_close(ours, reference)


@pytest.mark.skipif(importlib.util.find_spec("spconv") is None, reason="spconv is not installed")
def test_spconv_itself(threads):
    threads(1)
    x, kernel, kmap = problem()
    bias = torch.arange(4.0)
    torch.testing.assert_close(
        convolve(x, kernel, bias, kmap, "spconv"),
        convolve(x, kernel, bias, kmap, "torch"),
        rtol=1e-5,
        atol=1e-5,
    )


# --- without the library ------------------------------------------------------------------------------------------


@pytest.fixture
def warnings():
    """Texts of the warnings logged."""
    texts: list[str] = []
    sink = logger.add(lambda message: texts.append(message.record["message"]), level="WARNING")
    yield texts
    logger.remove(sink)


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    """As in a checkout where nothing was built."""
    monkeypatch.setattr(loading, "library_path", lambda: tmp_path / "absent.so")
    loading.library.cache_clear()
    yield
    loading.library.cache_clear()


def network_results() -> list[torch.Tensor]:
    """Output and gradients of a small U with points, on a fresh input."""
    torch.manual_seed(0)
    x = scene(150, 5, dtype=torch.float32)
    x = SparseTensor.from_batch(x.feats.requires_grad_(), x.coords)
    layers = [Conv3d(5, 6), Conv3d(6, 8, 2, 2), Conv3d(8, 8), Conv3d(8, 4, 2, 2, transposed=True)]
    stem, down, middle, up = layers
    coarse = middle(down(stem(x)))
    points = x.coords.float() + torch.tensor([0, 0.25, 0.5, 0.75])
    outputs = [up(coarse).feats, devoxelize(coarse, points)]
    loss = sum(y.square().sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x.feats, *(layer.kernel for layer in layers)])]


def test_library_missing_one_warning_and_the_same_results(request, warnings):
    assert library_status()[0]
    compiled = network_results()
    request.getfixturevalue("no_library")
    plain = network_results()
    network_results()
    assert len(warnings) == 1 and "make setup" in warnings[0]
    for ours, reference in zip(compiled, plain):
        torch.testing.assert_close(ours, reference, rtol=2e-5, atol=2e-5)


def test_library_missing_is_reported(no_library, warnings):
    assert library_status() == (False, "not built; run `make setup`")
    assert not loading.set_isa("generic")


def test_status_names_the_library_the_instruction_set_and_the_threads(threads):
    threads(1)
    loading.set_isa("generic")
    try:
        usable, line = library_status()
    finally:
        loading.set_isa("best")
    assert (
        usable and line == f"{building.library_path().name}, generic, bf16 through fp32, 1 threads"
    )


def test_unknown_instruction_set():
    assert not loading.set_isa("sse9") and loading.set_isa("best")


# --- building -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(monkeypatch, tmp_path) -> SimpleNamespace:
    """A source folder of two units, and where their library goes."""
    places = SimpleNamespace(sources=tmp_path / "csrc", target=tmp_path / "lib")
    places.sources.mkdir()
    (places.sources / "answer.cpp").write_text(
        '#include "n.h"\nextern "C" int answer() { return kNumber; }\n'
    )
    (places.sources / "n.h").write_text("constexpr int kNumber = 42;\n")
    monkeypatch.setattr(building, "SOURCES", places.sources)
    monkeypatch.setattr(building, "TARGET", places.target)
    monkeypatch.delenv("CXX", raising=False)
    return places


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fake_compiler(folder: Path, monkeypatch, *, link: str) -> Path:
    """A ``$CXX`` that notes its arguments in a file, makes empty objects, and runs ``link`` to link."""
    log, script = folder / "calls.txt", folder / "fake-c++"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\nfor last; do :; done\ncase "$*" in *-shared*) {link};; *) : > "$last";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log


@needs_compiler
def test_build_compiles_once_and_replaces_what_is_stale(tree, monkeypatch):
    first = building.build()
    assert first.parent == tree.target and ctypes.CDLL(str(first)).answer() == 42
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("compiled twice"))
    assert building.build() == first


@needs_compiler
def test_a_changed_header_makes_another_library(tree):
    first = building.build()
    (tree.sources / "n.h").write_text("constexpr int kNumber = 43;\n")
    second = building.build()
    assert second != first and ctypes.CDLL(str(second)).answer() == 43
    assert left_in(tree.target) == [second.name]


def test_no_compiler(tree, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    assert building.compiler() is None
    with pytest.raises(UserError, match=r"no C\+\+ compiler was found.*Install one"):
        building.build()
    assert left_in(tree.target) == []


def test_cxx_comes_first(monkeypatch):
    monkeypatch.setattr(
        shutil,
        "which",
        lambda name: f"/bin/{name}" if name in ("my-c++", "clang++", "c++") else None,
    )
    monkeypatch.setenv("CXX", "my-c++")
    assert building.compiler() == "/bin/my-c++"
    monkeypatch.setenv("CXX", "absent")
    assert building.compiler() == "/bin/clang++"


@needs_compiler
def test_a_compile_error_is_quoted_and_leaves_nothing(tree):
    (tree.sources / "answer.cpp").write_text("int broken = undeclared_name;\n")
    with pytest.raises(UserError) as caught:
        building.build()
    assert "answer.cpp" in str(caught.value) and "undeclared_name" in str(caught.value)
    assert "CXX=" in caught.value.cure
    assert left_in(tree.target) == []


def test_a_failed_link_leaves_no_half_written_library(tree, tmp_path, monkeypatch):
    fake_compiler(
        tmp_path, monkeypatch, link='echo half > "$last"; echo "no space to link" >&2; exit 1'
    )
    with pytest.raises(UserError, match="no space to link"):
        building.build()
    assert left_in(tree.target) == []


def test_each_unit_has_its_own_instruction_set(tree, tmp_path, monkeypatch):
    for unit in ("api", "conv_avx2", "conv_avx512", "conv_avx512bf16", "conv_generic"):
        (tree.sources / f"{unit}.cpp").touch()
    monkeypatch.setattr(building.platform, "machine", lambda: "x86_64")
    log = fake_compiler(tmp_path, monkeypatch, link='echo linked > "$last"')
    assert building.build().read_text() == "linked\n"
    calls = {
        Path(line.split(" -c ")[1].split()[0]).stem: line
        for line in log.read_text().splitlines()
        if " -c " in line
    }
    assert calls.keys() == {
        "answer",
        "api",
        "conv_avx2",
        "conv_avx512",
        "conv_avx512bf16",
        "conv_generic",
    }
    for unit in ("answer", "api", "conv_generic"):
        assert " -m" not in calls[unit]
    assert "-mavx2" in calls["conv_avx2"] and "-mavx512f" not in calls["conv_avx2"]
    assert "-mavx512f" in calls["conv_avx512"] and "-mavx512bf16" not in calls["conv_avx512"]
    assert "-mavx512bf16" in calls["conv_avx512bf16"]
    assert "-march" not in log.read_text()
