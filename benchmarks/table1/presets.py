"""What suits each data set, and presets: the columns of the paper's Table 1, and Fashion-MNIST for a CPU and a GPU.

The paper's data sets are CIFAR-10, CIFAR-100 and Tiny-ImageNet, its networks ResNet-18, a ConvNeXt and a ViT (`docs/sources.md`
says how sure that is). Which ConvNeXt and ViT, how many epochs and what batch are not known: the sizes here
are those that other libraries' tables take, the epochs those of lightly's on CIFAR-10 and Imagenette.
"""

from __future__ import annotations

from typing import Any

#: where the user names none: side in pixels, epochs (else 200), factor on a ResNet-18's channels (else 1), batch (else 256)
SIDES = {
    "digits": 32,
    "fashion_mnist": 28,
    "cifar10": 32,
    "cifar100": 32,
    "tiny_imagenet": 64,
    "imagenette": 128,
    "image_folder": 64,
}
EPOCHS = {"digits": 8, "fashion_mnist": 20, "image_folder": 100}
WIDTHS = {"digits": 0.25}
BATCHES = {"digits": 64}

#: what a recent GPU is fastest with; at these lengths the rows take the constants of `benchmarks.table1.long`
GPU = {"precision": "bf16-mixed", "compile": True, "channels_last": True, "long": True}
COLUMNS = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny-imagenet": "tiny_imagenet"}
NETWORKS = {"resnet18": "resnet18", "convnext": "convnext_tiny", "vit": "vit_small_patch16_224"}

#: name -> options of the command line; what is named there beside the preset overrides it
PRESETS: dict[str, dict[str, Any]] = {
    f"{column}-{network}": {"dataset": dataset, "backbone": backbone, "epochs": 200, "seeds": 3, **GPU}
    for column, dataset in COLUMNS.items()
    for network, backbone in NETWORKS.items()
}
PRESETS |= {
    "imagenette-resnet18": {"dataset": "imagenette", "backbone": "resnet18", "epochs": 200, "seeds": 3, **GPU},
    # train/<class>/ and val/<class>/; all of it in memory, hence 64 pixels
    "imagenet64-resnet50": {"dataset": "image_folder", "backbone": "resnet50", "epochs": 100, "image_size": 64, **GPU},
    # the stem of the digits: at full resolution a step takes eight times as long
    "fashion-mnist-cpu": {"dataset": "fashion_mnist", "width": 0.25, "stem": "original", "epochs": 2, "seeds": 3},
    "fashion-mnist-gpu": {"dataset": "fashion_mnist", "epochs": 100, "seeds": 3, **GPU},
}
