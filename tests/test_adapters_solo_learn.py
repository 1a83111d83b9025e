"""The solo-learn adapter has valid configs, registers its methods, explains errors, and trains under solo-learn's scripts.

Tests of registration use a stand-in for `solo.methods`, which has only the names that registration needs. Tests that train
need the real package. They run only if SOLO_LEARN_HOME names a checkout of solo-learn.
"""

import importlib
import os
import pickle
import subprocess
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import pytest
import torch
from programs import finished

hydra = pytest.importorskip("hydra")

from it_losses.adapters import solo_learn  # noqa: E402
from it_losses.adapters.backbones import add_timm  # noqa: E402
from it_losses.adapters.solo_learn import registration  # noqa: E402

HOME = os.environ.get("SOLO_LEARN_HOME", "")
with_checkout = pytest.mark.skipif(
    not HOME or not (Path(HOME) / "main_pretrain.py").is_file(),
    reason="SOLO_LEARN_HOME is not set, or its folder is not a checkout of solo-learn "
    "(git clone https://github.com/vturrisi/solo-learn)",
)
GROUP = sorted(path.stem for path in (solo_learn.CONFIGS / "it_losses").glob("*.yaml"))
PRIMARY = sorted(path.stem for path in solo_learn.CONFIGS.glob("*.yaml"))


def composed(name, *overrides):
    with hydra.initialize_config_dir(str(solo_learn.CONFIGS), version_base="1.2"):
        return hydra.compose(name, list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(("method", "weight"), [("byol_logdet", 3.2), ("byol_pairdist", 0.2), ("simclr_entropy", 0.2)])
def test_added_entropies_have_the_documented_weights(method, weight):
    assert composed("cifar10", f"it_losses={method}").method_kwargs.entropy_weight == weight


BASE = """class BaseMethod:
    _BACKBONES = {"resnet18": print}

    def add_and_assert_specific_cfg(): ...
"""


@pytest.fixture
def solo(monkeypatch, tmp_path):
    """Stand-ins for `solo.methods` and for our methods, with only the names that register() uses."""
    home = tmp_path / "checkout" / "solo" / "methods"
    home.mkdir(parents=True)
    (home / "base.py").write_text(BASE)
    (home / "__init__.py").write_text("from solo.methods.base import BaseMethod\nMETHODS = {'vicreg': object}\n")
    (home.parent / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "solo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(home.parents[1])
    methods = importlib.import_module("solo.methods")
    ours = types.ModuleType("it_losses.adapters.solo_learn.methods")
    for cls in solo_learn.METHODS.values():
        setattr(ours, cls, type(cls, (), {}))
    monkeypatch.setitem(sys.modules, ours.__name__, ours)
    monkeypatch.setattr(solo_learn, "methods", ours, raising=False)
    yield methods
    forget()


def forget():
    """Forget `solo`, so that the next import loads it again. We avoid monkeypatch, which would restore the stand-in."""
    for name in ("solo", "solo.methods", "solo.methods.base"):
        sys.modules.pop(name, None)


def test_there_is_a_config_for_every_method():
    assert sorted(solo_learn.METHODS) == GROUP
    assert PRIMARY == ["cifar10", "cpu_smoke", "custom"]


@pytest.mark.parametrize("method", GROUP)
@pytest.mark.parametrize("primary", PRIMARY)
def test_every_config_composes_with_every_method(primary, method):
    cfg = composed(primary, f"it_losses={method}", "data.train_path=images")
    assert cfg.method == method and cfg.name.startswith(f"{method}-")
    assert {"proj_hidden_dim", "proj_output_dim"} <= set(cfg.method_kwargs)
    assert ("momentum" in cfg) == method.startswith("byol")
    assert cfg.optimizer.lr > 0 and cfg.augmentations[0].num_crops == 2
    assert cfg.hydra.callbacks.it_losses._target_ == "it_losses.adapters.solo_learn.RegisterMethods"
    assert hydra.utils.get_class(cfg.hydra.callbacks.it_losses._target_) is solo_learn.RegisterMethods


def test_the_smoke_config_runs_on_a_cpu_as_solo_learn_wants_it():
    cfg = composed("cpu_smoke", "data.train_path=images")
    # solo-learn multiplies the learning rate by len(devices), so devices must be a string: an integer has no length
    assert cfg.devices == "1" and isinstance(cfg.devices, str)
    assert (cfg.accelerator, cfg.strategy, cfg.sync_batchnorm, cfg.wandb.enabled) == ("cpu", "auto", False, False)
    assert cfg.method_kwargs.proj_output_dim == 32


def test_register_adds_every_method_once(solo):
    solo_learn.register()
    solo_learn.register()
    solo_learn.RegisterMethods()
    assert set(solo.METHODS) == {"vicreg", *solo_learn.METHODS}


def test_a_name_that_is_taken_is_an_error(solo):
    solo.METHODS["byol_logdet"] = object
    with pytest.raises(ValueError, match="'byol_logdet' is already used"):
        solo_learn.register()
    assert solo.METHODS["byol_logdet"] is object


def make_old(solo):
    """Make the stand-in like the release of 2021, which has no configurations and fails to import with a current Lightning."""
    Path(solo.__file__).with_name("base.py").write_text("import pl_bolts_of_2021\n")


def test_the_release_of_2021_is_refused_with_a_remedy(solo):
    make_old(solo)
    forget()
    with pytest.raises(ImportError, match=r"old release.*git clone https://github.com/vturrisi/solo-learn"):
        solo_learn.register()


def test_a_package_that_solo_learn_needs_is_named_with_the_line_to_install_it(solo):
    Path(solo.__file__).write_text("import no_such_package_of_solo_learns")
    forget()
    with pytest.raises(
        ImportError, match=r'no_such_package_of_solo_learns, which is not installed\. Run: pip install "hydra-core<1.4" einops'
    ):
        solo_learn.register()


def test_no_solo_learn_gives_the_line_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "solo", None)
    with pytest.raises(ImportError, match=r"git clone https://github\.com/vturrisi/solo-learn"):
        solo_learn.register()


@pytest.mark.parametrize("version", ["1.4.0", "1.4.0.dev1", "2.0"])
def test_hydra_from_1_4_on_is_refused_with_the_line_to_install(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=r'pip install "hydra-core<1.4"'):
        registration.check_hydra()


def test_no_hydra_gives_the_line_to_install_it(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ImportError, match="pip install"):
        registration.check_hydra()


def test_timm_models_are_backbones_with_their_width():
    timm = pytest.importorskip("timm")
    base = type("BaseMethod", (), {"_BACKBONES": {"resnet18": print}})
    add_timm(base)
    add_timm(base)
    assert "resnet18" in base._BACKBONES and "timm/anything" in base._BACKBONES and "vgg" not in base._BACKBONES
    for name, options in {
        "timm/mobilenetv3_small_050": {},
        "timm/resnet10t": {},
        "timm/test_vit": {"img_size": 32, "patch_size": 8},
    }.items():
        backbone = base._BACKBONES[name](method="vicreg_logdet", **options).eval()
        with torch.no_grad():
            assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, backbone.num_features)
    with pytest.raises(ValueError, match="no model"):
        base._BACKBONES["timm/resnet10x"](method=None)
    with pytest.raises(KeyError):
        base._BACKBONES["vgg"]
    assert timm.model_entrypoint("convnext_tiny").__module__.startswith("timm.")


def test_a_backbone_has_no_head():
    timm_backbone = pytest.importorskip("it_losses.adapters.backbones").timm_backbone
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"num_classes must be 0.*backbone\.num_features"):
        timm_backbone("test_resnet", num_classes=10)
    assert isinstance(timm_backbone("test_resnet", num_classes=0), torch.nn.Module)


def plugin():
    """Our Hydra plugin, imported again."""
    sys.modules.pop("hydra_plugins.it_losses", None)
    return importlib.import_module("hydra_plugins.it_losses")


class SearchPath:
    def __init__(self):
        self.added = []

    def append(self, provider, path):
        self.added.append(path)


def test_the_plugin_is_found_by_hydra_in_this_installation():
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    assert "ItLossesConfigs" in {cls.__name__ for cls in Plugins.instance().discover(SearchPathPlugin)}


def test_the_plugin_does_nothing_in_programs_without_solo_learn(monkeypatch):
    monkeypatch.delitem(sys.modules, "solo.methods", raising=False)
    path = SearchPath()
    plugin().ItLossesConfigs().manipulate_search_path(path)
    assert path.added == []


def test_the_plugin_registers_in_programs_with_solo_learn_and_adds_the_configs(solo):
    path = SearchPath()
    plugin().ItLossesConfigs().manipulate_search_path(path)
    assert "vicreg_logdet" in solo.METHODS
    assert path.added == [f"file://{solo_learn.CONFIGS}"]


def test_a_plugin_that_fails_warns_and_lets_the_program_go_on(solo):
    make_old(solo)
    with pytest.warns(UserWarning, match="old release"):
        plugin()


@pytest.mark.parametrize("solo_learn_is_loaded", [False, True])
def test_a_plugin_whose_adapter_cannot_be_imported_lets_hydra_compose(monkeypatch, solo_learn_is_loaded):
    monkeypatch.delitem(sys.modules, "solo.methods", raising=False)
    if solo_learn_is_loaded:
        monkeypatch.setitem(sys.modules, "solo.methods", types.ModuleType("solo.methods"))
    # None makes every import of this module raise an error
    monkeypatch.setitem(sys.modules, "it_losses.adapters.solo_learn", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        composed_with(plugin().ItLossesConfigs, monkeypatch)
    said = [str(warning.message) for warning in caught if "it-losses" in str(warning.message)]
    assert [message.partition(":")[0] for message in said] == [
        "solo-learn cannot find the methods of it-losses",
        "Hydra cannot find the configs of it-losses",
    ][: 2 * solo_learn_is_loaded]


def composed_with(search_path_plugin, monkeypatch):
    """Compose a config while `search_path_plugin` is the only plugin for search paths that Hydra knows."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    discover = Plugins.discover
    monkeypatch.setattr(
        Plugins, "discover", lambda self, kind=None: [search_path_plugin] if kind is SearchPathPlugin else discover(self, kind)
    )
    with hydra.initialize(version_base=None, config_path=None):
        assert hydra.compose(overrides=["+a=1"]) == {"a": 1}


# the tests from here on need a checkout of solo-learn


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write 96 of scikit-learn's digits as images, in a folder for each class. Return the options that name these folders."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("digits")
    for i in range(96):
        folder = root / ("val" if i % 3 == 0 else "train") / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray((digits.images[i] * 15).astype("uint8")).convert("RGB").resize((32, 32)).save(folder / f"{i}.png")
    return [f"data.train_path={root / 'train'}", f"data.val_path={root / 'val'}"]


STOCK = [
    "data.dataset=custom",
    "data.num_workers=0",
    "devices='1'",
    "accelerator=cpu",
    "strategy=auto",
    "sync_batchnorm=False",
    "precision=32",
    "wandb.enabled=False",
    "max_epochs=1",
    "optimizer.batch_size=16",
    "method_kwargs.proj_hidden_dim=32",
    "method_kwargs.proj_output_dim=16",
]


def run(tmp_path, *arguments, ok=True):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *map(str, arguments), f"checkpoint.dir={tmp_path / 'checkpoints'}"]
    answer = finished(command, cwd=tmp_path, env=environment)
    assert (answer.returncode == 0) == ok, answer.stderr[-3000:]
    return answer.stdout + answer.stderr


def checkpoints(tmp_path):
    return sorted((tmp_path / "checkpoints").rglob("*.ckpt"))


def ours(config="cpu_smoke"):
    return [Path(HOME) / "main_pretrain.py", "--config-path", solo_learn.CONFIGS, "--config-name", config]


def stock():
    return [
        Path(HOME) / "main_pretrain.py",
        "--config-path",
        Path(HOME) / "scripts/pretrain/cifar",
        "--config-name",
        "vicreg.yaml",
    ]


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("method", GROUP)
def test_every_method_trains_under_the_stock_script(method, images, tmp_path):
    run(tmp_path, *ours(), *images, f"it_losses={method}")
    (checkpoint,) = checkpoints(tmp_path)
    saved = torch.load(checkpoint, weights_only=False)
    assert saved["method_kwargs"]["proj_output_dim"] == 32 and saved["global_step"] > 0


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("word", ["method=vicreg_logdet", "+it_losses=vicreg_pairdist"])
def test_a_stock_config_trains_our_method_with_one_option(word, images, tmp_path):
    run(tmp_path, *stock(), *images, *STOCK, word)
    assert word.partition("=")[2] in str(checkpoints(tmp_path)[0])


ANY = {
    "renyi": "+method_kwargs.entropy_options={order: 1.0, normalize: rows}",
    "sigreg": "+method_kwargs.entropy_options={convention: lightly, slices: 16}",
    "pairwise": "+method_kwargs.entropy_options={normalize: rows, bandwidth: [0.5, 1.0]}",
    "log_det": "method_kwargs.invariance=von_mises_fisher",
}


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("entropy", ANY)
def test_one_method_takes_any_estimator_and_its_options_from_the_yaml(entropy, images, tmp_path):
    run(tmp_path, *ours(), *images, "it_losses=vicreg_entropy", f"method_kwargs.entropy={entropy}", ANY[entropy])
    saved = torch.load(checkpoints(tmp_path)[0], weights_only=False)
    assert saved["method_kwargs"]["entropy"] == entropy and saved["global_step"] > 0
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.slow
@with_checkout
def test_an_entropy_that_is_missing_or_unknown_says_which_there_are(images, tmp_path):
    said = run(tmp_path, *stock(), *images, *STOCK, "method=vicreg_entropy", ok=False)
    assert "Missing: ['entropy']" in said
    said = run(tmp_path, *ours(), *images, "it_losses=vicreg_entropy", "method_kwargs.entropy=entropie", ok=False)
    assert "koleo" in said and "sigreg" in said and "'entropie'" in said


@with_checkout
@pytest.mark.parametrize("name", ["entropy_wieght", "cov_loss_weight"])
def test_an_entry_that_the_method_does_not_use_is_named_in_a_warning(name):
    code = f"""if True:
        import sys, omegaconf
        sys.path.insert(0, {HOME!r})
        import it_losses.adapters.solo_learn as adapter
        adapter.register()
        from it_losses.adapters.solo_learn import methods
        needed = {{"proj_hidden_dim": 32, "proj_output_dim": 16}}
        cfg = omegaconf.OmegaConf.create({{"method": "vicreg_logdet", "method_kwargs": needed | {{"{name}": 1.0}}}})
        methods.VICRegLogDet.add_and_assert_specific_cfg(cfg)
    """
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ignores method_kwargs ['{name}']. It uses ['proj_hidden_dim'" in answer.stderr


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("way", ["plugin", "callback", "runner"])
def test_two_gloo_ranks_train_by_every_way_of_registering(way, images, tmp_path):
    two = ["devices='2'", "strategy=ddp", "auto_resume.enabled=False"]
    if way == "callback":
        run(tmp_path, *ours(), *images, *two)
    else:
        first = ["-m", "it_losses.adapters.solo_learn"] if way == "runner" else []
        run(tmp_path, *first, *stock(), *images, *STOCK, "method=vicreg_fused", *two)
    (checkpoint,) = checkpoints(tmp_path)
    # 64 images in batches of 16 are four steps on one rank, and two steps on two ranks
    assert torch.load(checkpoint, weights_only=False)["global_step"] == 2


@pytest.mark.slow
@with_checkout
def test_resume_auto_resume_and_the_linear_probe(images, tmp_path):
    timm = "backbone.name=timm/resnet10t"
    run(tmp_path, *ours(), *images, timm)
    (checkpoint,) = checkpoints(tmp_path)
    assert "Resuming from previous checkpoint" in run(tmp_path, *ours(), *images, timm)
    refused = run(tmp_path, *ours(), *images, timm, "method_kwargs.entropy_weight=7", ok=False)
    assert "Give this run another `name`" in refused
    (checkpoint, *_) = checkpoints(tmp_path)
    run(tmp_path, *ours(), *images, timm, f"resume_from_checkpoint='{checkpoint}'", "max_epochs=2")
    assert max(torch.load(path, weights_only=False)["epoch"] for path in checkpoints(tmp_path)) == 1
    linear = [
        Path(HOME) / "main_linear.py",
        "--config-path",
        Path(HOME) / "scripts/linear/imagenet-100",
        "--config-name",
        "vicreg",
    ]
    probe = [*(word for word in STOCK if "proj" not in word), "data.format=image_folder", "scheduler.lr_decay_steps=[1]"]
    run(tmp_path, *linear, *images, *probe, timm, f"pretrained_feature_extractor='{checkpoint}'")
    assert any("linear" in str(path) for path in checkpoints(tmp_path))


def cifar(root, name):
    """Write random images in the file format of CIFAR-10 or CIFAR-100, and return the options for their paths."""
    ten = name == "cifar10"
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    train = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    generator = torch.Generator().manual_seed(0)
    for file in [*train, "test_batch" if ten else "test"]:
        data = torch.randint(256, (40 // len(train), 3072), generator=generator, dtype=torch.uint8).numpy()
        labels = [i % 10 for i in range(len(data))]
        (folder / file).write_bytes(pickle.dumps({"data": data, "labels" if ten else "fine_labels": labels}))
    meta = ("batches.meta", "label_names") if ten else ("meta", "fine_label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [str(i) for i in range(10 if ten else 100)]}))
    return [f"data.train_path={root}", f"data.val_path={root}"]


#: program that runs a script of solo-learn without torchvision's checksums of CIFAR, because our files are random
WITHOUT_CHECKSUMS = """import runpy, sys, torchvision
for data in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
    data.train_list = [[file, None] for file, _ in data.train_list]
    data.test_list = [[file, None] for file, _ in data.test_list]
    data.meta = data.meta | {"md5": None}
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_cifar_config_trains_on_files_of_either_format(name, tmp_path):
    pytest.importorskip("torchvision")
    script = tmp_path / "without_checksums.py"
    script.write_text(WITHOUT_CHECKSUMS)
    # override only the settings for a CPU, a short run and a narrow projector; the config gives all others
    here = [word for word in STOCK if word != "data.dataset=custom"]
    run(tmp_path, script, *ours("cifar10"), f"data.dataset={name}", *cifar(tmp_path / "data", name), *here)
    (checkpoint,) = checkpoints(tmp_path)
    saved = torch.load(checkpoint, weights_only=False)
    # 40 images make two whole batches of 16, and the rest is dropped
    assert saved["global_step"] == 2
    assert saved["state_dict"]["classifier.weight"].shape[0] == int(name.removeprefix("cifar"))


@pytest.mark.slow
@with_checkout
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("float64", 1e-12)])
def test_vicreg_fused_has_solo_learns_number(dtype, tolerance):
    code = f"""if True:
        import sys, torch, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, {HOME!r})
        from solo.losses.vicreg import vicreg_loss_func
        from it_losses.adapters.conventions import vicreg
        torch.manual_seed(0)
        results = []
        for criterion in (vicreg_loss_func, vicreg("solo-learn")):
            z = (0.7 * torch.randn(2, 48, 24, dtype=torch.{dtype}, generator=torch.Generator().manual_seed(0))).requires_grad_()
            loss = criterion(*z); loss.backward(); results.append((loss.detach(), z.grad))
        (a, da), (b, db) = results
        assert (a - b).abs() <= {tolerance} * a.abs(), (a, b)
        assert (da - db).norm() <= {tolerance} * da.norm(), (da - db).norm() / da.norm()
    """
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]


@pytest.mark.slow
@with_checkout
def test_the_weights_of_vicreg_fused_are_solo_learns_attributes():
    code = f"""if True:
        import sys, torch, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, {HOME!r})
        import it_losses.adapters.solo_learn as adapter
        adapter.register()
        from it_losses.adapters.conventions import vicreg
        from it_losses.adapters.solo_learn import methods
        module = methods.VICRegFused.__new__(methods.VICRegFused)
        torch.nn.Module.__init__(module)
        module.criterion = vicreg("solo-learn")
        module.sim_loss_weight, module.var_loss_weight, module.cov_loss_weight = 1.0, 2.0, 3.0
        z = torch.randn(2, 8, 4)
        methods.ReplacedLoss.training_step = lambda self, batch, batch_idx: self.criterion(*batch)
        expected = vicreg("solo-learn", sim_loss_weight=1.0, var_loss_weight=2.0, cov_loss_weight=3.0)(*z)
        assert module.training_step(z, 0) == expected
    """
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
