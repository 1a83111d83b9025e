"""A model of the cost of a global loss on each of W ranks: products, passes over memory, bytes sent, memory held.

    python -m benchmarks.distributed.model --interconnect nvlink --samples 2048 --dim 8192

    time = flops / flops_a_second + passes / memory_bytes_a_second + memory / fresh_bytes_a_second
           + sent / link_bytes_a_second + collectives * latency

A ring all-gather of m bytes a rank sends (W - 1) m, a ring all-reduce 2 (W - 1) / W m. Nothing overlaps. The figures of the
interconnects are nominal figures of accelerators, not measurements; `python -m benchmarks.distributed` sets the same
formulas beside CPU processes, with the constants of the machine it runs on.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

from it_losses.kernels import vicreg

VIEWS = 2
WIDE = 4  # bytes of a float32, in which statistics are kept


class Constants(NamedTuple):
    """The speeds of a rank."""

    flops: float
    memory_bytes: float
    #: bytes of memory taken from the system; infinite if an allocator caches them
    fresh_bytes: float
    link_bytes: float
    latency: float

    def __str__(self) -> str:
        memory = f"memory {self.memory_bytes / 1e9:.1f} GB/s, newly allocated memory {self.fresh_bytes / 1e9:.1f} GB/s"
        link = f"link {self.link_bytes / 1e9:.2f} GB/s, {1e6 * self.latency:.0f} us per collective"
        return f"{self.flops / 1e9:.1f} GFLOP/s, {memory}, {link}"


#: a large accelerator of 2023 in half precision, by its link to the others
INTERCONNECTS = {
    "nvlink": Constants(650e12, 3.6e12, math.inf, 350e9, 10e-6),
    "infiniband": Constants(650e12, 3.6e12, math.inf, 45e9, 20e-6),
    "ethernet": Constants(650e12, 3.6e12, math.inf, 10e9, 50e-6),
}


class Cost(NamedTuple):
    """The cost of one forward and backward pass on one rank."""

    flops: float
    #: bytes read and written by elementwise operations
    passes: float
    sent: float
    collectives: int
    #: peak bytes besides the views of the rank
    memory: float

    def seconds(self, constants: Constants) -> float:
        """The time, as the sum over all parts."""
        return (
            self.flops / constants.flops
            + self.passes / constants.memory_bytes
            + self.memory / constants.fresh_bytes
            + self.sent / constants.link_bytes
            + self.collectives * constants.latency
        )


def gather_and_repeat(world: int, samples: int, dim: int, payload: int = 2) -> Cost:
    """The authors' scheme: each rank forms the whole D x D matrix by autograd, and gradients of all samples are reduced."""
    own, square = samples / world, dim * dim * WIDE
    gathered = (world - 1) * own * dim * payload
    reduced = 2 * (world - 1) / world * samples * dim * payload
    # a D x D matrix is written, divided, its off-diagonal copied, squared and summed; backward fills as many once more, and
    # the two gradients of X^T X are added: 18 reads and writes. Twelve of N x D: gather, centre, variance, and back
    passes = VIEWS * (18 * square + 12 * samples * dim * WIDE)
    # each view keeps its off-diagonal and gathered, joined and centred samples; the backward pass through the strided view of
    # a matrix holds six more at once, and four more of N x D
    memory = (VIEWS + 6) * square + (3 * VIEWS + 4) * samples * dim * WIDE
    return Cost(VIEWS * 6 * samples * dim * dim, passes, VIEWS * (gathered + reduced), 4, memory)


def rows(world: int, samples: int, dim: int, payload: int = 2) -> Cost:
    """Our scheme for few samples: each rank computes its n rows of N x N from the gathered samples."""
    own = samples / world
    # N x D numbers: written by the gather, read for the mean, centred, read for the variance and for the products of a column
    passes = VIEWS * (7 * samples * dim * WIDE + 3 * own * samples * WIDE + 8 * own * dim * WIDE)
    memory = VIEWS * samples * dim * (payload if payload == WIDE else payload + WIDE)
    memory += own * samples * WIDE + 3 * VIEWS * own * dim * WIDE
    return Cost(VIEWS * 4 * own * samples * dim, passes, VIEWS * (world - 1) * own * dim * payload, VIEWS + 3, memory)


def covariance(world: int, samples: int, dim: int, payload: int = 2) -> Cost:
    """Our scheme for many samples: the D x D matrices of the ranks' own samples are all-reduced."""
    own, square = samples / world, dim * dim * WIDE
    passes = VIEWS * (8 * square + 10 * own * dim * WIDE)
    sent = 2 * (world - 1) / world * VIEWS * square
    return Cost(VIEWS * 4 * own * dim * dim, passes, sent, 4, VIEWS * (2 * square + 4 * own * dim * WIDE))


def ours(world: int, samples: int, dim: int, payload: int = 2) -> Cost:
    """The side that `it_losses` takes."""
    return (rows if vicreg.prefers_gram(samples, dim, max(world, 2)) else covariance)(world, samples, dim, payload)


SCHEMES = {"it-losses": ours, "rows": rows, "covariance": covariance, "gather and repeat": gather_and_repeat}


def main() -> None:
    """Print time, bytes and memory of a rank for growing numbers of ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interconnect", choices=INTERCONNECTS, default="nvlink")
    parser.add_argument("--samples", type=int, default=2048, help="of the global batch")
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--payload-bytes", type=int, default=2, help="of one number of the embeddings")
    parser.add_argument("--teraflops", type=float, help="of the products, instead of the interconnect's accelerator")
    parser.add_argument("--memory-gb-s", type=float, help="gigabytes an elementwise operation reads and writes a second")
    parser.add_argument("--link-gb-s", type=float, help="gigabytes a rank sends a second")
    parser.add_argument("--latency-us", type=float, help="microseconds of one collective")
    args = parser.parse_args()

    asked = (args.teraflops, args.memory_gb_s, None, args.link_gb_s, args.latency_us)
    units = (1e12, 1e9, 1e9, 1e9, 1e-6)
    nominal = INTERCONNECTS[args.interconnect]
    constants = Constants(*(n if a is None else a * u for a, u, n in zip(asked, units, nominal, strict=True)))
    print(f"model, not measured: N = {args.samples}, D = {args.dim}, {VIEWS} views, a rank and step; {constants}")
    print(f"{'ranks':>5}  {'scheme':<18}{'time us':>10}{'sent MB':>10}{'memory MB':>11}{'GFLOP':>9}")
    for world in args.ranks:
        for name, scheme in SCHEMES.items():
            cost = scheme(world, args.samples, args.dim, args.payload_bytes)
            time_us, megabytes = 1e6 * cost.seconds(constants), (cost.sent / 1e6, cost.memory / 1e6)
            print(f"{world:>5}  {name:<18}{time_us:>10.0f}{megabytes[0]:>10.1f}{megabytes[1]:>11.0f}{cost.flops / 1e9:>9.1f}")


if __name__ == "__main__":
    main()
