"""The Triton kernels without a GPU: right under the interpreter, and compiled ahead of time for the GPUs they are meant for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

#: shared memory a block may have, bytes
SHARED = {80: 163 * 1024, 90: 227 * 1024}


def test_the_kernels_are_right_under_the_interpreter():
    # Triton looks at the variable when it is imported: a process of its own
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=file.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def signatures(dtype):
    """Kernel -> types of its arguments and its compile-time constants."""
    from it_losses.kernels import triton_launches

    z, f, i = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}[dtype], "*fp32", "i32"
    tile = {"TILE_ROWS": triton_launches.TILE_ROWS, "TILE_COLS": triton_launches.TILE_COLS}
    product = {
        "TILE": triton_launches.PRODUCT_TILE, "TILE_K": triton_launches.DEPTH, "PRECISION": "tf32", "UPCAST": False,
    }  # fmt: skip
    return {
        "column_statistics": ([z, z, i, i, f, f, f, i, i], {"CHUNK": triton_launches.CHUNK, **tile}),
        "finish_statistics": (
            [f, f, f, f, f, f, i, i, i, "fp32", "fp32", "fp32"],
            {"CHUNK": triton_launches.CHUNK, "TILE_COLS": triton_launches.TILE_COLS},
        ),
        "centre": ([z, z, i, i, f, z, f, i, i], tile),
        "square_pass": ([f, z, f, i, "fp32"], {"ZERO_DIAGONAL": True, "TILE": triton_launches.SQUARE_TILE}),
        "gradient_pass": (
            [z, z, i, i, f, f, f, f, f, f, f, z, z, i, i],
            {"HAS_COLUMN": True, "HAS_PRODUCT": dtype == torch.float16, **tile},
        ),
        "gram_split": ([z, f, i, i, i], product),
        "pair_sums": ([z, f, f, f, i, i, i], product),
    }


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("name", list(signatures(torch.float32)))
@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float32), (90, torch.bfloat16), (90, torch.float16)], ids=str)
def test_every_kernel_builds_and_fits(name, capability, dtype):
    if dtype == torch.float16 and name not in ("gradient_pass", "gram_split", "pair_sums"):
        pytest.skip("compiles as bfloat16 does")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from it_losses.kernels import triton_kernels

    kernel = getattr(triton_kernels, name)
    types, constants = signatures(dtype)[name]
    names = [argument for argument in kernel.arg_names if argument not in constants]
    signature = dict(zip(names, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert built.asm["cubin"]
    assert built.metadata.shared <= SHARED[capability]
    if name in ("gram_split", "pair_sums"):
        # tensor cores
        assert ("wgmma" if capability == 90 else "mma.sync") in built.asm["ptx"]
