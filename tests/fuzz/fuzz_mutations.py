"""Seeded damage: of bytes, of lines of text, and of the values in JSON, YAML, checkpoints, safetensors and archives."""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml

Mutation = Callable[[bytes, np.random.Generator], bytes]

NUMBERS = (0, -1, 1, 7, 255, 256, 65536, 2**31, 2**32, 2**53, 2**63, 2**70, -(2**70), 10**5000)
FLOATS = (0.5, -0.0, 1e-320, 1e9, 1e30, 1e308, math.inf, -math.inf, math.nan)
TEXTS = (
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "ä" * 300,
    "y" * 5000,
    "011",
    "1:30",
    "no",
    "2001-13-45",
)
OTHERS = (None, True, False, [], {}, [[]], [None], {"x": 1}, [1, 2, 3], [["a"]], [[1.5, 2.5]] * 3)
WRONG: tuple[Any, ...] = (*NUMBERS, *FLOATS, *TEXTS, *OTHERS)


def wrong_value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(WRONG[rng.integers(len(WRONG))])


# --- bytes ------------------------------------------------------------------------------------------------------------
def _place(content: bytes, rng: np.random.Generator) -> int:
    """Headers are short and matter most, so half of the places lie at the start."""
    end = len(content)
    if rng.random() < 0.5:
        end = min(end, 200)
    return int(rng.integers(end + 1))


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content or b"x")
    for _ in range(rng.integers(1, 5)):
        changed[min(_place(content, rng), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.bytes(int(rng.integers(1, 17))) + content[place:]


def blank(content: bytes, rng: np.random.Generator) -> bytes:
    """Zero, or set, a run of bytes."""
    place = _place(content, rng)
    run = min(int(rng.integers(4, 65)), len(content) - place)
    return content[:place] + bytes([int(rng.choice([0, 255]))]) * run + content[place + run :]


def drop(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    return content[:place] + content[place + int(rng.integers(1, 40)) :]


def replace_all(content: bytes, rng: np.random.Generator) -> bytes:
    """Something else altogether."""
    gif = b"GIF89a\x01\x00\x01\x00\x80\x00\x00"
    kinds = (
        b"",
        b"\0" * 64,
        rng.bytes(200),
        b"{}",
        b"[]",
        b"null",
        b"PK\x03\x04",
        gif,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    )
    return kinds[rng.integers(len(kinds))]


BYTES: tuple[Mutation, ...] = (flip, flip, cut, insert, blank, drop, replace_all)


# --- text -------------------------------------------------------------------------------------------------------------
def words(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace, drop or repeat one word or line."""
    lines = content.decode("latin-1").split("\n")
    at = int(rng.integers(len(lines)))
    action = rng.integers(4)
    if action == 0:
        lines[at : at + 1] = [lines[at], lines[at]]
    elif action == 1:
        del lines[at]
    else:
        parts = lines[at].split(" ")
        parts[rng.integers(len(parts))] = str(wrong_text(rng))
        lines[at] = " ".join(parts)
    return "\n".join(lines).encode("latin-1", "replace")


def wrong_text(rng: np.random.Generator) -> str:
    odd = (
        "nan",
        "inf",
        "-1e400",
        "0x1f",
        "1_0",
        "9" * 5000,
        "é",
        "\0",
        ";",
        "1e5",
        "-",
        "[" * 5000,
        "{{",
        "*a",
        "&a [*a]",
        "!!int x",
    )
    return odd[rng.integers(len(odd))]


# --- trees ------------------------------------------------------------------------------------------------------------
def damaged_tree(tree: Any, rng: np.random.Generator, wrong: Callable[..., Any]) -> Any:
    """A copy in which one value is another, or one key is gone or new."""
    tree = copy.deepcopy(tree)
    holder, key = _some_place(tree, rng)
    if holder is None:
        return wrong(tree, rng)
    action = rng.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.2 and isinstance(holder, dict):
        holder["another"] = wrong_value(rng)
    elif action < 0.25 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = wrong(holder[key], rng)
    return tree


def _some_place(tree: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """A container and a key of it, at a random depth."""
    holder, key, node = None, None, tree
    while isinstance(node, dict | list) and node:
        holder = node
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[rng.integers(len(keys))]
        node = node[key]
        if rng.random() < 0.15:
            break
    return holder, key


def _plain(old: Any, rng: np.random.Generator) -> Any:
    return wrong_value(rng)


def json_values(content: bytes, rng: np.random.Generator) -> bytes:
    tree = damaged_tree(json.loads(content), rng, _plain)
    return json.dumps(tree, default=str).encode("utf-8", "surrogatepass")


def yaml_values(content: bytes, rng: np.random.Generator) -> bytes:
    tree = damaged_tree(yaml.safe_load(content), rng, _plain)
    return yaml.safe_dump(tree).encode("utf-8", "replace")


def yaml_tricks(content: bytes, rng: np.random.Generator) -> bytes:
    """Aliases, depth, tags and scalars that mean something in YAML alone."""
    levels = "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 12))
    tricks = (
        f"b0: &b0 [x, y]\n{levels}", "a: &a [*a]", "a: " + "[" * 5000, "- " * 3000, "{a: " * 3000, "a: " + "9" * 5000,
        "a: 2001-13-45", "a: 0b_", "a: !!python/object:os.system x", "<<: 5", "? [a]\n: 1", "a: 1e999", "'': 1",
        "null: 1", "1: 2\n1.0: 3", "%YAML 9.9\n---\na: 1", "a: 1\n---\nb: 2",
        "a: !!binary =", "\t a: 1", "a: \"\\ud800\"", "~",
    )  # fmt: skip
    trick = tricks[rng.integers(len(tricks))].encode()
    return trick if rng.random() < 0.4 else content + b"\n" + trick


JSON: tuple[Mutation, ...] = (
    *BYTES,
    json_values,
    json_values,
    json_values,
    json_values,
    json_values,
)
YAML: tuple[Mutation, ...] = (
    *BYTES,
    words,
    yaml_values,
    yaml_values,
    yaml_values,
    yaml_values,
    yaml_tricks,
)
LINES: tuple[Mutation, ...] = (*BYTES, words, words, words)


def json_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    lines[at] = json_values(lines[at], rng) + b"\n"
    return b"".join(lines)


# --- containers -------------------------------------------------------------------------------------------------------
def _wrong_tensor(old: Any, rng: np.random.Generator) -> Any:
    if not isinstance(old, torch.Tensor) or rng.random() < 0.3:
        value = wrong_value(rng)
        return value if value != "\ud800" else "x"
    changed = (
        old.double(), old.flatten()[:3], old[None], old.float() * math.nan, torch.empty(0), old.long(), old.to_sparse(),
        torch.tensor(1.0), old.bool(), old.float() * 1e30, old.expand(3, *old.shape),
    )  # fmt: skip
    return changed[rng.integers(len(changed))]


def checkpoint_values(content: bytes, rng: np.random.Generator) -> bytes:
    state = torch.load(io.BytesIO(content), weights_only=True)
    stream = io.BytesIO()
    torch.save(damaged_tree(state, rng, _wrong_tensor), stream)
    return stream.getvalue()


def safetensors_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage the header, or the JSON that stands as text in its metadata."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    if metadata and rng.random() < 0.6:
        key = list(metadata)[rng.integers(len(metadata))]
        try:
            metadata[key] = json_values(metadata[key].encode(), rng).decode("utf-8", "replace")
        except ValueError:
            metadata[key] = "x"
    else:
        header = damaged_tree(header, rng, _plain)
    text = json.dumps(header, default=str).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def gzipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage what is packed; the checksum fits again."""
    mutation = BYTES[rng.integers(len(BYTES))]
    return gzip.compress(mutation(gzip.decompress(content), rng), 1)


def zipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage one entry of an archive, its name or its content; the checksums fit again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        chosen = int(rng.integers(len(old.infolist())))
        for number, entry in enumerate(old.infolist()):
            name, data = entry.filename, old.read(entry)
            if number == chosen and rng.random() < 0.2:
                name = str(rng.choice(["../x", "/x", "", name * 9, "é/"]))
            elif number == chosen:
                data = BYTES[rng.integers(len(BYTES))](data, rng)
            new.writestr(name, data)
    return stream.getvalue()


def npy_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Another dtype, order, shape or syntax in a .npy header."""
    bodies = (
        "'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), ",
        "'descr': '|O', 'fortran_order': False, 'shape': (1,), ",
        "'descr': '<f4', 'fortran_order': True, 'shape': (10000000000, 4), ",
        "'descr': '<f4', 'shape': (-1, 4), ",
        "'descr': [('a', 'x')], 'fortran_order': 0, 'shape': ()",
        "'descr': '<c8', 'fortran_order': False, 'shape': (4, 4), ",
        "'descr': '<M8[D]', 'fortran_order': False, 'shape': (8,), ",
    )
    headers = ("(" * 90, "{" + bodies[0], *("{" + body + "}" for body in bodies))
    text = headers[rng.integers(len(headers))].ljust(117) + "\n"
    body = content[content.find(b"\n") + 1 :]
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


def png_chunks(content: bytes, rng: np.random.Generator) -> bytes:
    """Another size, depth or colour type in a PNG's header, its checksum right."""
    header = bytearray(content[16:29])
    at = int(rng.integers(len(header)))
    header[at] = int(rng.integers(256))
    check = zlib.crc32(b"IHDR" + bytes(header)).to_bytes(4, "big")
    return content[:16] + bytes(header) + check + content[33:]
