"""Choosing an engine, doing without the compiled library, and building it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys

import pytest
import torch
from loguru import logger
from sparse_scene import scene

from core.errors import UserError
from core.sparse import Conv3d, SparseTensor, build, convolve, get_backend, library_status, local_pool, set_backend
from core.sparse import devoxelize as to_points
from core.sparse import library as library_function
from core.sparse import set_isa
from core.sparse.backends import spconv as spconv_backend

VARIABLE = "LIDISTILL_SPARSE_BACKEND"
HAS_COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
