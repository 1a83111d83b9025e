"""Every Triton kernel compiled ahead of time, as it can be launched: it builds, fits, spills nothing, and uses tensor cores."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import torch

triton = pytest.importorskip("triton")

from it_losses.kernels import entropy_launches, triton_entropies, triton_kernels, triton_launches  # noqa: E402

#: shared memory a program may have, bytes: an sm_86 or sm_89 has less than the sm_80 it runs the code of
SHARED = {80: 99 * 1024, 90: 227 * 1024}
POINTER = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
#: kernels whose products are meant for tensor cores, where the operands allow it
PRODUCTS = ("gram_split", "pair_sums")


def cases(dtype: torch.dtype) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Kernel, types of its arguments, its compile-time constants and options, for samples of that dtype."""
    z, f, i, s = POINTER[dtype], "*fp32", "i32", "fp32"
    vicreg, entropy = triton_launches, entropy_launches
    tile = {"TILE_ROWS": vicreg.TILE_ROWS, "TILE_COLS": vicreg.TILE_COLS}
    many = {"num_warps": vicreg.EIGHT_WARPS["num_warps"]}
    pairs = {"TILE_ROWS": entropy.PAIR_ROWS, "TILE_COLS": entropy.PAIR_COLS}
    yield "column_statistics", [z, z, i, i, f, f, f, f, i, i], {"CHUNK": vicreg.CHUNK, **tile}
    for lines in (vicreg.LINES, 0):
        yield "centre", [z, z, i, i, f, "*i64", z, f, i, i, i], {"LINES": lines, **tile, **many}
    line = {"LINES": vicreg.LINES, "TILE_ROWS": vicreg.LINE_ROWS}
    yield "take_apart", [z, z, i, i, f, "*i64", f, z, i, i, i], line
    yield "scaled", [z, f, s, z, i], {"TILE": vicreg.TOTAL_TILE}
    for lines in (vicreg.LINES, 0):
        constants = {"LINES": lines, "HAS_PRODUCT": dtype == torch.float16, **tile, **many}
        constants["TILE_ROWS"] = vicreg.GRADIENT_ROWS
        yield "gradient_pass", [z, z, i, i, f, f, s, f, f, f, s, f, s, z, i, i, z, i, i], constants
    for flag in (True, False):
        square = {"TILE": vicreg.SQUARE_TILE, **many}
        yield "square_pass", [f, z, f, i, s], {"ZERO_DIAGONAL": flag, **square}
        yield "doubly_centred", [f, f, f, z, i], {"CENTRED": flag, **square}
        rows = {"TILE_ROWS": entropy.ROW_TILE, "TILE_COLS": entropy.ROW_COLS}
        yield "centre_rows", [z, i, i, f, f, z, f, i, i], {"HAS_UNITS": flag, **rows}
    yield "pair_weights", [f, i, f, f, f, z, i, f, i, i, i, i], pairs
    out = {"TILE_ROWS": entropy.OUT_ROWS, "TILE_COLS": entropy.OUT_COLS}
    yield "pulled", [z, f, f, f, z, i, i, i, i], out
    for tf32 in (True, False) if dtype == torch.float32 else (False,):
        options = triton_launches.product_options(dtype, tf32=tf32)
        yield "gram_split", [z, f, i, i, i], options
        yield "pair_sums", [z, f, f, f, i, i, i], options
    if dtype == torch.float32:
        yield (
            "finish_statistics", [f, f, f, f, f, f, f, i, i, i, s, s, s],
            {"CHUNK": vicreg.CHUNK, "TILE_COLS": vicreg.TILE_COLS},
        )  # fmt: skip
        yield "finish_columns", [f, f, f, "*i64", f, f, i, i, i, i, s, s], {**line, "TILE_COLS": vicreg.TILE_COLS}
        yield "total", [f] * 6 + [i] * 4 + [s] * 7, {"TILE": vicreg.TOTAL_TILE}
        for flag in (True, False):
            constants = {"CENTRED": flag, "TILE": entropy.DIAGONAL_TILE}
            yield "gram_constants", [f, f, f, f, i, s], constants
            yield "log_diagonal", [f, f, f, i], constants
        for scales in (1, 4, 16):
            yield "similarity_sums", [f, i, f, f, f, i, i, i, i], {"SCALES": scales, **pairs}


def compiled(name: str, types: list[str], constants: dict[str, object], capability: int, *, aligned: bool):
    """The kernel as Triton compiles it at a launch; aligned where every pointer and size is a multiple of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(triton_kernels, name, None) or getattr(triton_entropies, name)
    options = {key: value for key, value in constants.items() if key.islower()}
    constants = {key: value for key, value in constants.items() if not key.islower()}
    names = [argument for argument in kernel.arg_names if argument not in constants]
    signature = dict(zip(names, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    places = [i for i, argument in enumerate(kernel.arg_names) if signature[argument] not in ("constexpr", "fp32")]
    attributes = {(i,): [["tt.divisibility", 16]] for i in places} if aligned else {}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=triton_launches.OPTIONS | options)


def stack_bytes(cubin: bytes, folder) -> int:
    """What a thread keeps in memory because it has no registers left."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = dict(word.split(":") for word in usage.split() if word.startswith(("STACK:", "LOCAL:")))
    return int(numbers["STACK"]) + int(numbers["LOCAL"])


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "odd"])
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", POINTER, ids=str)
def test_every_kernel_builds_fits_and_spills_nothing(dtype, capability, aligned, tmp_path):
    faults = []
    for name, types, constants in cases(dtype):
        # what is not multiplied is read and written alike, whatever its 16 bits mean
        if dtype == torch.bfloat16 and name not in PRODUCTS:
            continue
        built = compiled(name, types, constants, capability, aligned=aligned)
        if built.metadata.shared > SHARED[capability]:
            faults.append(f"{name} {constants}: {built.metadata.shared} bytes of shared memory")
        if spilled := stack_bytes(built.asm["cubin"], tmp_path):
            faults.append(f"{name} {constants}: {spilled} bytes of registers spilled")
        instruction = "wgmma" if capability == 90 else "mma.sync"
        if name in PRODUCTS and constants["PRECISION"] != "ieee" and instruction not in built.asm["ptx"]:
            faults.append(f"{name} {constants}: no {instruction}")
    assert not faults, "\n".join(faults)
