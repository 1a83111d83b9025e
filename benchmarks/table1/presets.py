"""Options that suit each data set, and presets: the columns of the paper's Table 1, and Fashion-MNIST for a CPU and a GPU.

The paper's data sets are CIFAR-10, CIFAR-100 and Tiny-ImageNet, and its networks are ResNet-18, a ConvNeXt and a ViT
(`docs/sources.md` says how sure that is). The sizes of the ConvNeXt and the ViT, the epochs and the batch size are not known.
The presets take network sizes from tables of other libraries, and the epochs from lightly's table for CIFAR-10.
"""

from typing import Any

#: data set -> options, unless the command line or a preset names others
DATASET_OPTIONS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 32, "epochs": 8, "batch_size": 64, "stem": "original"},
    "fashion_mnist": {"image_size": 28, "epochs": 20},
    "cifar10": {"image_size": 32},
    "cifar100": {"image_size": 32},
    "tiny_imagenet": {"image_size": 64},
    "image_folder": {"image_size": 64, "epochs": 100},
}
#: options for a recent GPU; "long" uses the constants of `benchmarks.table1.recipes.long_runs`
GPU = {"epochs": 200, "precision": "bf16-mixed", "long": True}
NETWORKS = {"resnet18": "resnet18", "convnext": "convnext_tiny", "vit": "vit_small_patch16_224"}
#: name -> options of the command line; options that the user names beside the preset override it
PRESETS: dict[str, dict[str, Any]] = {
    f"{dataset.replace('_', '-')}-{network}": {"dataset": dataset, "backbone": backbone, **GPU}
    for dataset in ("cifar10", "cifar100", "tiny_imagenet")
    for network, backbone in NETWORKS.items()
}
FASHION_ROWS = ["untrained", "simclr", "vicreg", "byol"]
FASHION_ROWS += ["vicreg_pairdist", "vicreg_logdet", "byol_pairdist", "byol_logdet", "supervised"]
# these options take minutes on one core; VICReg's linear probe is then two points above a probe of the raw pixels
PRESETS["fashion-mnist-cpu"] = {"dataset": "fashion_mnist", "methods": FASHION_ROWS, "epochs": 4, "batch_size": 128}
PRESETS["fashion-mnist-cpu"] |= {"backbone": "resnet10t", "width": 0.5, "stem": "half", "precision": "bf16-mixed"}
PRESETS["fashion-mnist-gpu"] = {"dataset": "fashion_mnist"} | GPU | {"epochs": 100}
