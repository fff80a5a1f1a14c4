"""Other projects' checkpoints: their tensors are read bit for bit, and nothing that stands beside them is run."""

from __future__ import annotations

import builtins
import collections
import copyreg
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.engine.exchange.foreign import read_weights
from core.engine.exchange.pickled import INERT, Name, Pickle, StoredTensor
from core.errors import UserError

WITNESS = "RAN"  # of the environment, set by code that runs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def trained() -> dict[str, object]:
    """What a trainer on torch's SGD writes whose schedule NumPy computes, with NumPy's numbers."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.24, momentum=0.9, nesterov=True)
    cosine = lambda step: 0.5 * (1 + np.cos(np.pi * step / 10))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=cosine)
    for _ in range(2):
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    assert type(states[0]["param_groups"][0]["lr"]) is np.float64
    assert type(states[1]["_last_lr"][0]) is np.float64
    return {
        "model": net.state_dict(),
        "optimizer": states[0],
        "scheduler": states[1],
        "scaler": {},
        "epoch_num": 25,
        "callbacks": [{"best": np.float32(0.7), "when": np.array([1.0, 2.0])}],
    }


@pytest.mark.parametrize("new", [True, False])
def test_what_a_trainer_on_numpys_schedule_writes(new: bool, tmp_path: Path) -> None:
    state = trained()
    torch.save(state, tmp_path / "f.pt", _use_new_zipfile_serialization=new)
    equal(read_weights(tmp_path / "f.pt"), state["model"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_classes_that_are_not_there(protocol: int, tmp_path: Path) -> None:
    """As Lightning writes: hyper-parameters of a class, callbacks by their class, a named tuple, sets, dates."""
    module = types.ModuleType("strange_library")
    for kind in ("EasyDict", "Checkpoint"):
        made = type(kind, (dict,), {"__module__": module.__name__})
        setattr(module, kind, made)
    sys.modules[module.__name__] = module
    options = module.EasyDict(lr=0.24, nested=module.EasyDict(a=[1, {2, 3}]))
    options.extra = "attribute"
    state = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(network().state_dict()),
        "hyper_parameters": options,
        "callbacks": {module.Checkpoint: {"best": torch.tensor(0.7), "path": Path("x")}},
        "frozen": frozenset([1]),
    }
    torch.save(state, tmp_path / "f.ckpt", pickle_protocol=protocol)
    del sys.modules[module.__name__]
    equal(read_weights(tmp_path / "f.ckpt"), state["state_dict"])


def test_parameters_views_and_other_dtypes(tmp_path: Path) -> None:
    table = torch.arange(24, dtype=torch.float64).view(4, 6)
    weights = {
        "parameter": nn.Parameter(torch.randn(2, 3)),
        "transposed": table.T,
        "part": table[1:3, 2:4],
        "scalar": torch.tensor(5),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3).half(),
        "rounded": torch.randn(3).bfloat16(),
        "small": torch.tensor([-3, 7], dtype=torch.int8),
    }
    torch.save(weights, tmp_path / "f.pt")
    equal(read_weights(tmp_path / "f.pt"), {name: t.detach() for name, t in weights.items()})
    torch.save({"model": {f"module.{name}": t for name, t in weights.items()}}, tmp_path / "f.pt")
    assert read_weights(tmp_path / "f.pt").keys() == weights.keys()


# --- code -----------------------------------------------------------------------------------------------------------
def run(*_: object) -> dict[str, int]:
    os.environ[WITNESS] = "yes"
    return {}


class Reduce:
    def __reduce__(self) -> tuple:
        return run, ()


class Deep:
    """Calls in the arguments of calls, items and state."""

    def __reduce__(self) -> tuple:
        return (
            run,
            ((Reduce(), [Reduce()]),),
            {"state": Reduce()},
            iter([Reduce()]),
            iter([(1, Reduce())]),
        )


class State:
    def __setstate__(self, state: object) -> None:
        run()

    def __getstate__(self) -> dict:
        return {"a": 1}


class New:
    def __new__(cls, *arguments: object) -> New:
        if arguments:
            run()
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple:
        return (1,)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WITNESS, raising=False)
    yield
    assert WITNESS not in os.environ


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [Reduce, Deep, State, New])
def test_objects_that_run_code(
    kind: type, protocol: int, tmp_path: Path, nothing_runs: None
) -> None:
    state = {"model": network().state_dict(), "callbacks": [kind()]}
    torch.save(state, tmp_path / "f.pt", pickle_protocol=protocol)
    os.environ.pop(WITNESS, None)  # making the object ran it
    equal(read_weights(tmp_path / "f.pt"), state["model"])


HERE = __name__
CALL = f"c{HERE}\nrun\n"
OPCODES = {
    "reduce": f"{CALL}(tR.",
    "reduce of eval": f"cbuiltins\neval\n(S'__import__(\"{HERE}\").run()'\ntR.",
    "reduce of system": "cos\nsystem\n(S'exit 3'\ntR.",
    "nested reduce": f"{CALL}({CALL}(tRtR.",
    "getattr": f"cbuiltins\ngetattr\n(c__main__\nx\nS'y'\ntR({CALL}(tRtR.",
    "build": f"c{HERE}\nState\n)\x81(dS'a'\nI1\nsb.",
    "build of a dictionary": f"}}{CALL}(tRb.",
    "build of a function": f"{CALL}(N(dS'__code__'\nI1\nstb.",
    "inst": f"(i{HERE}\nrun\n.",
    "obj": f"(c{HERE}\nrun\no.",
    "newobj": f"c{HERE}\nNew\n(I1\nt\x81.",
    "newobj_ex": f"\x80\x04c{HERE}\nNew\n(I1\nt}}\x92.",
    "stack_global": f"\x80\x04\x8c{chr(len(HERE))}{HERE}\x8c\x03run\x93)R.",
    "ext1": "\x80\x02\x82\xf0)R.",
    "persid": "Pidentity\n.",
    "binpersid": "(S'module'\nS'source'\ntQ.",
    "key that runs": f"(d{CALL}(tRI1\ns.",
    "ordered dictionary of a call": f"ccollections\nOrderedDict\n(({CALL}(tRI1\nltltR.",
}


@pytest.mark.parametrize("case", OPCODES)
def test_opcodes_run_nothing(case: str, nothing_runs: None) -> None:
    """Inert or refused; Python's own unpickler runs most of these."""
    copyreg.add_extension(HERE, "run", 0xF0)
    try:
        value = Pickle(OPCODES[case].encode("latin1")).value
    except (ValueError, TypeError):
        return
    finally:
        copyreg.remove_extension(HERE, "run", 0xF0)
    assert value is INERT or value == {} or isinstance(value, Name)


def test_the_opcodes_above_are_dangerous() -> None:
    """The cases mean something: Python's unpickler runs what they name."""
    ran = []
    for case in ("reduce", "reduce of eval", "inst", "obj", "newobj", "build", "stack_global"):
        os.environ.pop(WITNESS, None)
        pickle.loads(OPCODES[case].encode("latin1"))
        ran.append(os.environ.pop(WITNESS, None))
    assert ran == ["yes"] * len(ran)


# --- damage ---------------------------------------------------------------------------------------------------------
def stored(value: object, path: Path, **entries: bytes) -> Path:
    """A zip archive as torch.save's, whose pickle holds ``value``."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a/data.pkl", value if isinstance(value, bytes) else pickle.dumps(value, 2)
        )
        for name, content in entries.items():
            archive.writestr(f"a/data/{name}", content)
    return path


def tensor_pickle(
    count: int, offset: int, size: str, stride: str, kind: str = "FloatStorage"
) -> bytes:
    """{"model": {"w": a tensor}}, its storage "k"."""
    reference = f"(S'storage'\nctorch\n{kind}\nS'k'\nS'cpu'\nI{count}\ntQ"
    rebuilt = (
        f"ctorch._utils\n_rebuild_tensor_v2\n({reference}I{offset}\n({size}t({stride}tI00\nNtR"
    )
    return f"(dS'model'\n(dS'w'\n{rebuilt}ss.".encode()


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_tensor_written_by_hand(tmp_path: Path) -> None:
    path = stored(tensor_pickle(4, 1, "I3\n", "I1\n"), tmp_path / "f.pt", k=FOUR)
    assert read_weights(path)["w"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (tensor_pickle(4, 0, "I5\n", "I1\n"), FOUR),  # too long
        (tensor_pickle(4, 2, "I3\n", "I1\n"), FOUR),  # beyond the end
        (tensor_pickle(4, 0, "I2\n", "I4\n"), FOUR),  # too wide a step
        (tensor_pickle(4, 0, "I1000000000\n", "I0\n"), FOUR),  # one value a billion times
        (tensor_pickle(4, 0, "I3\n", "I-1\n"), FOUR),
        (tensor_pickle(4, -1, "I3\n", "I1\n"), FOUR),
        (tensor_pickle(4, 0, "I4\n", "I1\nI1\n"), FOUR),
        (tensor_pickle(4, 0, "I0\nI99999999999999999999\n", "I1\nI1\n"), FOUR),
        (tensor_pickle(4, 0, "I4\n", "I1\n"), FOUR[:-1]),  # less than it says
        (tensor_pickle(1 << 60, 0, "I4\n", "I1\n"), FOUR),
        (tensor_pickle(4, 0, "I4\n", "I1\n", "SecretStorage"), FOUR),
        (tensor_pickle(4, 0, "I4\n", "I1\n").replace(b"S'k'", b"S'other'"), FOUR),
        (tensor_pickle(4, 0, "I4\n", "I1\n").replace(b"S'k'", b"S'../data.pkl'"), FOUR),
        (b"(dS'model'\n(dS'w'\nr\xff\xff\xff\x7fss.", FOUR),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", FOUR),  # a string longer than the file
        (b"(" * 1000, FOUR),
        (b"", FOUR),
        (pickle.dumps({"epoch": 3}), FOUR),
        (pickle.dumps({"model": {"w": 3}}), FOUR),
        (pickle.dumps([1, 2]), FOUR),
    ],
)
def test_damage_is_told(content: bytes, entry: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f\.pt"):
        read_weights(stored(content, tmp_path / "f.pt", k=entry))


def test_archives_that_promise_more_than_they_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor_pickle(1 << 20, 0, "I4\n", "I1\n"))
        archive.writestr("a/data/k", bytes(4 << 20))
    with pytest.raises(UserError, match="larger than the file"):
        read_weights(tmp_path / "f.pt")


@pytest.mark.parametrize("new", [True, False])
def test_files_cut_short_or_changed(new: bool, tmp_path: Path) -> None:
    stream = io.BytesIO()
    state = {"model": network().state_dict()}
    torch.save(state, stream, _use_new_zipfile_serialization=new)
    whole = bytearray(stream.getvalue())
    rng = np.random.default_rng(0)
    path = tmp_path / "f.pt"
    names = set(state["model"])
    for length in (0, 1, 3, *rng.integers(0, len(whole), 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_weights(path)
    accepted = 0
    for _ in range(150):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            accepted += set(read_weights(path)) == names
        except UserError:
            continue
    assert accepted  # bits of padding, and in old files of the values


def test_nested_too_deep_to_hash_or_to_walk() -> None:
    """A hundred thousand brackets: as a key they are left out, as a value they are a value."""
    nested = b")" + b"\x85" * 100_000
    assert Pickle(b"\x80\x02}" + nested + b"K\x01s.").value == {}
    assert isinstance(Pickle(b"\x80\x02]" + nested + b"a.").value, list)


def test_names_are_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str, *_: object, **__: object) -> None:
        raise AssertionError(f"{name} was imported")

    content = b"cabsent.module\nname\n)R0]cabsent\nother\na."
    monkeypatch.setattr(builtins, "__import__", forbidden)
    value = Pickle(content).value
    monkeypatch.undo()
    assert value == [Name("absent", "other")]


def test_stored_tensor_is_a_record() -> None:
    found = Pickle(tensor_pickle(4, 1, "I3\n", "I1\n")).value["model"]["w"]
    assert isinstance(found, StoredTensor)
    assert (found.offset, found.size, found.stride) == (1, (3,), (1,))
    assert found.storage.dtype == torch.float32 and found.storage.count == 4
