"""Every Triton kernel compiles ahead of time for every kind of launch, fits into shared memory, and spills few registers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from launches import KERNELS, Launch, record_launches, stand_in_for_gpu  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from it_losses.kernels.products import cuda_pairs, cuda_passes, cuda_slices  # noqa: E402

#: compute capability -> bytes of shared memory. Code for sm_80 also runs on sm_86 and sm_89, whose smaller limit is used
SHARED = {80: 99 * 1024, 90: 227 * 1024}
#: bytes that a thread may spill into memory if a size is no multiple of 16. Then each element needs its own address, and
#: ptxas keeps one or two addresses in memory
SPILLED = 16
#: bytes that a thread may spill in a kernel with cosines. A cosine needs them for arguments above 10^5, which are rare
OF_COSINE = 32
WITH_COSINES = {"normal_numbers", "sums_of_waves", "slopes_of_waves"}
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
#: (groups, samples, dim). Triton compiles different code for multiples of 16, other sizes, 1, and strides beyond 32 bits
SHAPES = [(16, 256, 128), (2, 33, 71), (1, 2, 1), (2, 2048, 1 << 21)]


def launched(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Return all launches for samples of this dtype. The tensors are on the meta device, so they take no memory."""
    launches = record_launches(monkeypatch)
    stand_in_for_gpu(monkeypatch)
    for groups, samples, dim in SHAPES:
        z = torch.empty(groups, samples, dim, dtype=dtype, device="meta")
        zc = z.new_empty(2 * groups, samples, dim)
        slope = z.new_empty(2 * groups, 1, dim, dtype=torch.float32)
        cuda_passes.centre_into(zc, [z, z], cuda_passes.moments([z, z]))
        # the gradient of float16 samples is computed in float32
        out = zc.float() if dtype == torch.float16 else zc
        cuda_passes.differences_into(out, z, z, 0.1)
        cuda_passes.differences_into(out, z, z, 0.1, zc, slope)
        cuda_slices.unit_directions(samples, dim, seed=0, draw=0, like=z)
        x = slope.new_empty(groups, samples, dim)
        ((_, waves),) = cuda_slices.waves(x, slope.new_empty(16), samples)
        cuda_slices.wave_slopes_(waves, slope.new_empty(groups, samples, 2, 16))
        for count in (1, 3, 16):
            rates = slope.new_empty(count, groups)
            _, pairs = cuda_pairs.pair_sums(z, slice(0, samples), rates, memory=1 << 40)
            cuda_pairs.add_pair_gradient_(out[:groups], pairs, slope.new_empty(count, groups, samples))
    return launches


def type_of(argument: Any) -> str:
    """Return Triton's name for the type of an argument."""
    if isinstance(argument, torch.Tensor):
        return TYPES[argument.dtype]
    if isinstance(argument, float):
        return "fp32"
    return "constexpr" if argument == 1 else "i32" if argument < 2**31 else "i64"


def source_of(launch: Launch) -> tuple[ASTSource, dict[str, Any]]:
    """Return the source that Triton compiles, and its options. Sizes of 1 are constants. Multiples of 16 are marked."""
    kernel = KERNELS[launch.kernel]
    constants = {name: value for name, value in launch.named.items() if name in kernel.arg_names}
    options = {name: value for name, value in launch.named.items() if name not in kernel.arg_names}
    signature, attributes = {}, {}
    for place, (name, value) in enumerate(zip(kernel.arg_names, launch.arguments, strict=False)):
        signature[name] = type_of(value)
        if signature[name] == "constexpr":
            constants[name] = value
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    return ASTSource(kernel, signature, constants, attributes), options


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """Return the bytes that a thread keeps in memory because no register is left."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = dict(word.split(":") for word in usage.split() if word.startswith(("STACK:", "LOCAL:")))
    return int(numbers["STACK"]) + int(numbers["LOCAL"])


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_kernel_builds_fits_and_spills_nothing(dtype, capability, tmp_path, monkeypatch):
    launches, faults, seen = launched(dtype, monkeypatch), [], set()
    assert {launch.kernel for launch in launches} == KERNELS.keys()
    for launch in launches:
        source, options = source_of(launch)
        if source.hash() in seen:
            continue
        seen.add(source.hash())
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        if built.metadata.shared > SHARED[capability]:
            faults.append(f"{launch}: {built.metadata.shared} bytes of shared memory")
        is_odd = any(type_of(value) in ("i32", "i64") and value % 16 for value in launch.arguments)
        allowed = OF_COSINE if launch.kernel in WITH_COSINES else SPILLED if is_odd else 0
        if (spilled := stack_bytes(built.asm["cubin"], tmp_path)) > allowed:
            faults.append(f"{launch}: {spilled} bytes of registers spilled")
    assert not faults, "\n".join(faults)
