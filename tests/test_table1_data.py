"""The benchmarks read small files in the format of every data set, and draw two different views of each image."""

import gzip
import pickle
import random
import struct

import benchmarks_extra  # noqa: F401
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from benchmarks import RequestError, data
from benchmarks.augment import RECIPES, Views, channel_moments, recipe_for

RANDOM = np.random.default_rng(0)
#: augmentation recipe -> (a data set that uses it, number of channels)
TAKEN_BY = {"digits": ("digits", 1), "grey": ("fashion_mnist", 1), "colour": ("cifar10", 3)}


def write_pictures(root, values):
    """Write one picture for each name in `values`. All its pixels have the grey level `values[name]`."""
    for name, value in values.items():
        path = root / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path)


def test_digits_are_split_by_class_and_again_for_validation_with_no_image_on_two_sides():
    images = data.load("digits", None, 8)
    split = images.validation()
    # scikit-learn's digits are 1797 different images, so no image is in two parts
    assert len(torch.cat([split.train, split.test, images.test]).flatten(1).unique(dim=0)) == 1797
    assert images.train.dtype == torch.uint8 and images.train.shape[1:] == (1, 8, 8) and images.train.max() == 255
    for half in (images, split):
        fraction = half.test_labels.bincount() / (half.train_labels.bincount() + half.test_labels.bincount())
        assert ((fraction - 0.2).abs() < 0.01).all()
    assert torch.equal(split.test, images.validation().test)
    with pytest.raises(RequestError, match="cannot be split by class"):
        images.subset(8).validation()


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_reads_plain_and_gzipped_idx_files_and_names_a_broken_one(tmp_path, zipped):
    for half, count in (("train", 7), ("t10k", 5)):
        pixels, labels = RANDOM.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 3).astype(np.uint8)
        for name, array in ((f"{half}-images-idx3-ubyte", pixels), (f"{half}-labels-idx1-ubyte", labels)):
            content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            (tmp_path / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    images = data.load("fashion_mnist", tmp_path, 28)
    assert np.array_equal(images.test[:, 0], pixels) and images.test_labels.tolist() == labels.tolist()
    assert images.train.shape == (7, 1, 28, 28) and images.classes == 3
    path = next(tmp_path.glob("train-images*"))
    for broken in (path.read_bytes()[:-1], b"<html>", b""):
        path.write_bytes(broken)
        with pytest.raises(RequestError, match=r"train-images-idx3-ubyte.* is not a whole IDX file"):
            data.load("fashion_mnist", tmp_path, 28)


@pytest.mark.parametrize(("kind", "labels"), [(CIFAR10, "labels"), (CIFAR100, "fine_labels")])
def test_cifar_reads_the_pickles_of_its_authors(tmp_path, monkeypatch, kind, labels):
    pixels, folder = RANDOM.integers(0, 256, (4, 3, 32, 32), np.uint8), tmp_path / kind.base_folder
    folder.mkdir()
    for file, _ in kind.train_list + kind.test_list:
        (folder / file).write_bytes(pickle.dumps({"data": pixels.reshape(4, -1), labels: [0, 1, 2, 1]}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["a"] * 3}))
    # torchvision knows only the checksums of the real files, so its checks are turned off
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    images = data.load(kind.__name__.lower(), tmp_path, 32)
    assert np.array_equal(images.test, pixels) and len(images.train) == 4 * len(kind.train_list) and images.classes == 3


def test_tiny_imagenet_reads_its_annotations(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    write_pictures(root, {"train/n01/images/0": 0, "train/n02/images/0": 200, "val/images/1": 0, "val/images/2": 200})
    (root / "val" / "val_annotations.txt").write_text("2.JPEG\tn02\t0\t0\t1\t1\n1.JPEG\tn01\t0\t0\t1\t1\n")
    images = data.load("tiny_imagenet", tmp_path, 16)
    assert images.test_labels.tolist() == [1, 0] and images.train.shape == (2, 3, 16, 16)
    assert images.test[0].float().mean() == pytest.approx(200, abs=2)


def test_both_halves_of_a_folder_number_the_classes_alike(tmp_path):
    write_pictures(tmp_path, {"train/n1/a": 9, "train/n3/b": 9, "val/n3/c": 60})
    images = data.load("image_folder", tmp_path, 16)
    assert images.train_labels.tolist() == [0, 1] and images.test_labels.tolist() == [1]
    assert images.test.float().mean() == pytest.approx(60, abs=2)


def test_a_folder_of_classes_is_split_by_class_on_white_without_links_and_small_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LEAST_OF_A_CLASS", 10)
    write_pictures(tmp_path, {f"{kind}/{i}": 9 for kind, count in (("ant", 3), ("bee", 10), ("cow", 20)) for i in range(count)})
    for i in range(5):
        Image.new("RGBA", (20, 20), (200, 0, 0, 0)).save(tmp_path / "cow" / f"clear{i}.png")
        (tmp_path / "bee" / f"link{i}.JPEG").symlink_to(tmp_path / "cow" / f"{i}.JPEG")
    images = data.load("image_folder", tmp_path, 16)
    assert images.train_labels.bincount().tolist() == [8, 20] and images.test_labels.bincount().tolist() == [2, 5]
    levels = torch.cat([images.train, images.test]).float().mean(dim=(1, 2, 3))
    assert (levels == 255).sum() == 5 and ((levels - 9).abs() < 2).sum() == 30


def test_missing_files_and_unknown_classes_are_errors_that_name_the_expected_ones(tmp_path):
    write_pictures(tmp_path, {"train/cat/0": 1, "val/cow/0": 1})
    with pytest.raises(RequestError, match=r"classes that .* lacks \(cow\): remove them"):
        data.load("image_folder", tmp_path, 16)
    (tmp_path / "train" / "cat" / "0.JPEG").write_bytes(b"no picture")
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "cat")
    with pytest.raises(RequestError, match=r"cannot identify image file .*0\.JPEG"):
        data.load("image_folder", tmp_path, 16)
    with pytest.raises(RequestError, match=r"No such file.*train.* What is expected there: .*`"):
        data.load("tiny_imagenet", tmp_path / "val", 16)
    with pytest.raises(RequestError, match=r"or folders of at least 100 images. What is expected there: .*`"):
        data.load("image_folder", tmp_path / "val", 16)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_draws_two_different_views_from_torchs_generator_alone_and_equal_ones_under_autocast(recipe):
    dataset, channels = TAKEN_BY[recipe]
    assert recipe_for(dataset, channels) == recipe
    images = torch.randint(0, 256, (32, channels, 16, 16), dtype=torch.uint8)
    views, drawn, state = Views(recipe, 16, *channel_moments(images)), [], torch.get_rng_state()
    others = random.getstate(), str(np.random.get_state())
    for mixed in (False, True):
        # a checkpoint keeps the random state, so the same state must give the same views
        torch.set_rng_state(state)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            drawn.append(torch.stack(views(images)))
    assert (random.getstate(), str(np.random.get_state())) == others
    assert drawn[0].shape == (2, *images.shape) and drawn[1].dtype == torch.float32 and torch.equal(*drawn)
    assert ((drawn[0][0] - drawn[0][1]).flatten(1).abs().amax(dim=1) > 0.1).all()


def test_standardised_images_have_mean_0_and_variance_1():
    images = torch.randint(0, 200, (64, 3, 8, 8), dtype=torch.uint8)
    pixels = Views("colour", 8, *channel_moments(images)).standardised(images)
    assert pixels.mean(dim=(0, 2, 3)).abs().max() < 1e-5 and (pixels.var(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-4
