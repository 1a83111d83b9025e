"""Train a timm backbone on one device or many, with the same losses on any number of devices.

    python -m benchmarks.examples.train_ddp
    torchrun --nproc-per-node 2 -m benchmarks.examples.train_ddp

Both commands print the same losses. The default backbone has layer normalisation, so its output for a sample does not depend
on the other samples of the rank. A backbone with batch normalisation gives other losses on many devices, unless you use
`torch.nn.SyncBatchNorm` (on GPUs only). If the learning rate is too large for stable training, such as 1e-3, rounding errors
grow until the losses differ.
"""

import argparse
import os

import timm
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from it_losses import ESTIMATORS, VICRegEntropy


def images() -> Tensor:
    """1,797 handwritten digits with mean 0: [1797, 1, 32, 32]."""
    pixels = torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    return nn.functional.interpolate(pixels, size=32) - pixels.mean()


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random views: each image is rotated, scaled and moved a little, and gets noise."""
    angle, size = (torch.rand(2, len(x), generator=generator) - 0.5) * torch.tensor([[0.6], [0.4]])
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=1).view(-1, 2, 2) * (1 + size)[:, None, None]
    move = (torch.rand(len(x), 2, 1, generator=generator) - 0.5) * 0.4
    grid = nn.functional.affine_grid(torch.cat((turn, move), dim=2), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False) + 0.1 * torch.randn(x.shape, generator=generator)


def main() -> None:
    """Train and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="test_vit", help="name of a timm model")
    parser.add_argument("--entropy", default="log_det", choices=sorted(ESTIMATORS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256, help="samples on all devices together")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    args = parser.parse_args()

    launched = "RANK" in os.environ
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if launched:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)

    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 4} if "vit" in args.backbone else {}
    backbone = timm.create_model(args.backbone, num_classes=0, in_chans=1, **small)
    projector = nn.Sequential(nn.Linear(backbone.num_features, 256), nn.LayerNorm(256), nn.GELU(), nn.Linear(256, 256))
    model: nn.Module = nn.Sequential(backbone, projector).to(device)
    if launched:
        model = DistributedDataParallel(model)
    criterion = VICRegEntropy(args.entropy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)

    x = images()
    generator = torch.Generator().manual_seed(0)
    for step in range(args.steps):
        # every rank draws the whole batch and takes its part, so the number of ranks does not change the samples
        batch = x[torch.randperm(len(x), generator=generator)[: args.batch]]
        views = [augmented(batch, generator).chunk(world)[rank].to(device) for _ in range(2)]
        # both views go through one forward pass, because DDP expects one forward pass for each backward pass
        loss, invariance, entropy = criterion.terms(*model(torch.cat(views)).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step % 10 == 0 or step == args.steps - 1):
            print(f"step {step:3d}  loss {loss:8.4f}  invariance {invariance:.4f}  entropy {entropy:.4f}", flush=True)
    if launched:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
