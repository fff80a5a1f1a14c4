"""Install ``sptr``: ``pip install .``, ``pip install -e .`` or ``python setup.py install``.

Only a C++17 compiler is needed to compile the CPU kernels; without one the package still works, through PyTorch. Where
nvcc exists the CUDA kernels are compiled, too.
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def _build_module():
    """``sptr/build.py`` without importing the package, which needs torch."""
    spec = importlib.util.spec_from_file_location("sptr_build", ROOT / "sptr" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithKernels(build_py):
    """Compile the kernels first, so that they are installed as package data."""

    def run(self):
        try:
            _build_module().build_all()
        except RuntimeError as error:
            sys.stderr.write(
                f"warning: sptr is installed without its compiled kernels and will be slower: {error}\n"
            )
        super().run()


class PlatformDistribution(Distribution):
    """The wheel holds a compiled library, so it belongs to one platform."""

    def has_ext_modules(self):
        return True


setup(
    name="sptr",
    version="1.0.0",
    description="Window attention with contextual relative position for point clouds, fused and memory-linear",
    license="MIT",
    python_requires=">=3.9",
    packages=["sptr"],
    package_data={"sptr": ["csrc/*", "csrc/cuda/*", "_lib/*.so"]},
    install_requires=["numpy", "torch>=2.2"],
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithKernels},
)
