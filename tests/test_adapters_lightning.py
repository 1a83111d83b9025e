"""EmbeddingMonitor logs the right numbers for the embeddings of a step, and removes its hooks however the step ends."""

import contextlib
import copy
import gc
import json
import pickle
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from it_losses import EntropyRegularizer, VICReg, VICRegEntropy, diagnostics
from it_losses.observe import OBSERVERS

lightning = pytest.importorskip("pytorch_lightning")
monitor = pytest.importorskip("it_losses.adapters.lightning")

QUIET = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@pytest.fixture(autouse=True)
def warnings_of_ours_alone():
    """Ignore Lightning's warnings about small loaders; turn a warning of ours into an error unless the test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module="it_losses")
        warnings.filterwarnings("error", message=".*(EmbeddingMonitor|collapse|NaN or inf)")
        yield


class Plain(lightning.LightningModule):
    """A module that calls a criterion on two projected views. `seen` keeps the views of the last call."""

    def __init__(self, criterion=None, *, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Linear(6, 5)
        self.criterion = VICReg() if criterion is None else criterion
        self.scale = scale

    def views(self, batch):
        z = [self.scale * self.projector(x) for x in batch[0].unbind(1)]
        self.seen = [view.detach().clone() for view in z]
        return z

    def training_step(self, batch, batch_idx):
        return self.criterion(*self.views(batch))

    def validation_step(self, batch, batch_idx):
        self.criterion(*self.views(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(rows=24, batch=12):
    torch.manual_seed(1)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(rows, 2, 6)), batch_size=batch)


def trainer_of(callback, **options):
    callbacks = [callback, *options.pop("callbacks", [])]
    return lightning.Trainer(callbacks=callbacks, **QUIET | {"logger": False} | options)


def fit(module, callback, **options):
    trainer = trainer_of(callback, **options)
    trainer.fit(module, loader(), loader() if "val_check_interval" in options else None)
    return trainer


def logged(module, callback=None, **options):
    metrics = fit(module, callback or monitor.EmbeddingMonitor(every_n_steps=1), **options).callback_metrics
    return {name: value.item() for name, value in metrics.items()}


def mean_over(views, measured):
    return sum(float(measured(z)) for z in views) / len(views)


def assert_clean(module, callback):
    """Assert that the module has no hooks, the monitor has no measured step, and no observer of criteria is left."""
    for part in module.modules():
        assert not part._forward_hooks and not part._forward_pre_hooks
        assert "terms" not in vars(part)
    assert callback._step is None
    gc.collect()
    assert not len(OBSERVERS)


# the numbers that are logged


def test_each_number_is_that_of_the_views_of_the_step():
    module = Plain(VICRegEntropy("log_det", beta=3.0))
    found = logged(module)
    terms = module.criterion.terms(*module.seen)
    for name, value in terms._asdict().items():
        assert found[f"embeddings/criterion/{name}"] == pytest.approx(value.item(), rel=1e-5)
    for name, measured in {
        "rank_me": diagnostics.rank_me,
        "gaussian_entropy_nats": diagnostics.gaussian_entropy,
        "participation_ratio": diagnostics.participation_ratio,
        "spread": diagnostics.spread,
        "std": lambda z: z.var(dim=0, correction=0).mean().sqrt(),
        "norm_of_mean": lambda z: z.mean(dim=0).norm(),
        "pairwise_lower_nats": lambda z: diagnostics.sphere_entropy_bounds(z).lower,
        "pairwise_upper_nats": lambda z: diagnostics.sphere_entropy_bounds(z).upper,
    }.items():
        assert found[f"embeddings/criterion/{name}"] == pytest.approx(mean_over(module.seen, measured), rel=1e-4), name
    # the monitor logs this entropy in nats, and the criterion gives it in nats per dimension; the views have 5 dimensions
    assert found["embeddings/criterion/log_det_entropy_nats"] == pytest.approx(5 * terms.entropy.item(), rel=1e-4)
    assert found["embeddings/collapsed"] == 0


def test_the_other_name_of_lightning_works_too():
    other = pytest.importorskip("lightning.pytorch")

    class Other(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.plain = Plain()

        def training_step(self, batch, batch_idx):
            return self.plain.training_step(batch, batch_idx)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    trainer = other.Trainer(callbacks=[monitor.EmbeddingMonitor(every_n_steps=1)], **QUIET | {"logger": False})
    trainer.fit(Other(), loader())
    assert "embeddings/plain.criterion/rank_me" in trainer.callback_metrics


class Several(Plain):
    """A module with two criteria, of which `local` is called twice, and a regularizer of l2-normalised views."""

    def __init__(self):
        super().__init__()
        self.local_projector = nn.Linear(6, 3)
        self.local = VICRegEntropy("log_det")
        self.regularizer = EntropyRegularizer("log_det", weight=0.1)

    def training_step(self, batch, batch_idx):
        z_a, z_b = self.views(batch)
        local = [self.local_projector(x) for x in batch[0].unbind(1)]
        unit = [nn.functional.normalize(z, dim=1) for z in (z_a, z_b)]
        self.calls = {
            "criterion": (z_a, z_b),
            "local": tuple(local),
            "local-2": (local[1], 2 * local[0]),
            "regularizer": tuple(unit),
        }
        first = self.local.terms(*self.calls["local"]).loss + self.local(*self.calls["local-2"])
        return self.criterion(z_a, z_b) + first + self.regularizer(*unit)


def test_each_call_of_each_criterion_is_logged_with_its_own_views():
    module = Several()
    found = logged(module)
    for name, views in module.calls.items():
        views = [z.detach() for z in views]
        assert found[f"embeddings/{name}/rank_me"] == pytest.approx(mean_over(views, diagnostics.rank_me), rel=1e-5)
        if name != "regularizer":
            criterion = module.get_submodule(name.removesuffix("-2"))
            loss = criterion(*views).item()
            assert found[f"embeddings/{name}/loss"] == pytest.approx(loss, rel=1e-5)
    unit = [z.detach() for z in module.calls["regularizer"]]
    entropy = mean_over(unit, module.regularizer.entropy)
    assert found["embeddings/regularizer/entropy"] == pytest.approx(entropy, rel=1e-5)
    # the output of a projector is not logged under its own name if there are criteria
    assert not any("projector" in name for name in found)


def test_a_criterion_that_is_no_submodule_goes_by_its_class():
    class Hidden(Plain):
        def __init__(self):
            super().__init__(nn.Identity())
            self.criteria = [VICReg()]

        def training_step(self, batch, batch_idx):
            return self.criteria[0](*self.views(batch))

    assert "embeddings/VICReg/rank_me" in logged(Hidden())


def test_calls_beyond_the_eighth_are_not_kept():
    class Many(Plain):
        def training_step(self, batch, batch_idx):
            z_a, z_b = self.views(batch)
            return sum(self.criterion(z_a, z_b) for _ in range(30))

    names = {name.split("/")[1] for name in logged(Many()) if "rank_me" in name}
    assert names == {"criterion", *(f"criterion-{call}" for call in range(2, 9))}


def test_a_named_module_is_measured_in_a_model_without_our_criteria():
    module = Plain(nn.MSELoss())
    found = logged(module, monitor.EmbeddingMonitor("projector", every_n_steps=1, prefix="z"))
    assert found["z/projector/rank_me"] == pytest.approx(mean_over(module.seen, diagnostics.rank_me), rel=1e-5)
    assert not any("invariance" in name for name in found)
    # in a model without our criteria, the monitor finds the projector itself
    assert "embeddings/projector/rank_me" in logged(Plain(nn.MSELoss()))


def test_a_named_module_is_measured_beside_the_terms_of_the_criteria():
    found = logged(Plain(scale=2.0), monitor.EmbeddingMonitor("projector", every_n_steps=1))
    assert {"embeddings/projector/rank_me", "embeddings/criterion/invariance"} <= set(found)
    assert "embeddings/criterion/rank_me" not in found


class Mapped(Plain):
    """A module whose backbone returns `form(z)`, for example feature maps or tokens."""

    def __init__(self, form):
        super().__init__(nn.MSELoss())
        self.backbone = nn.Module()
        self.backbone.forward = form

    def views(self, batch):
        self.seen = [x.clone() for x in batch[0].unbind(1)]
        out = [self.backbone(z + self.projector.bias.sum() * 0) for z in self.seen]
        return [z.flatten(1) if isinstance(z, torch.Tensor) else z[0].flatten(1) for z in out]


@pytest.mark.parametrize(
    "form",
    [
        lambda z: z[:, :, None, None],
        lambda z: z[:, :, None, None] + torch.randn(4, 4) * 50,
        lambda z: z[:, :, None, None, None] + torch.randn(2, 4, 4),
        lambda z: z[:, None, :] + 50 * torch.randn(7, 6),
    ],
    ids=["pooled", "map", "volume", "tokens"],
)
def test_maps_and_tokens_are_averaged_over_their_positions(form):
    module = Mapped(form)
    found = logged(module, monitor.EmbeddingMonitor("backbone", every_n_steps=1, on_collapse="raise"))
    # a position adds the same numbers to all images, so the covariance does not change
    expected = mean_over(module.seen, diagnostics.participation_ratio)
    assert found["embeddings/backbone/participation_ratio"] == pytest.approx(expected, rel=1e-3)


def test_collapsed_images_are_found_although_positions_differ():
    module = Mapped(lambda z: 0 * z[:, :, None, None] + torch.arange(96.0).view(6, 4, 4))
    with pytest.raises(RuntimeError, match="backbone: complete collapse"):
        fit(module, monitor.EmbeddingMonitor("backbone", every_n_steps=1, on_collapse="raise"))


def test_groups_of_a_criterion_are_averaged_too():
    class Grouped(Plain):
        def training_step(self, batch, batch_idx):
            self.maps = [self.projector(x)[:, None, :] + 5 * torch.randn(7, 5) for x in batch[0].unbind(1)]
            return self.criterion(*self.maps)

    module = Grouped()
    expected = lambda: mean_over([z.detach().mean(dim=1) for z in module.maps], diagnostics.rank_me)  # noqa: E731
    assert logged(module)["embeddings/criterion/rank_me"] == pytest.approx(expected(), rel=1e-4)


@pytest.mark.parametrize(
    ("form", "match"),
    [
        (lambda z: {"z": z}, "returned a dict"),
        (lambda z: (z, z[:, :2]), "different shapes"),
        (lambda z: z.sum(), r"shape \(\)"),
        (lambda z: z.argmax(dim=1), "int64"),
    ],
)
def test_a_module_that_makes_no_embeddings_is_named(form, match):
    module = Mapped(form)
    module.training_step = lambda batch, batch_idx: (
        module.backbone(batch[0][:, 0]),
        module.projector(batch[0]).square().mean(),
    )[1]
    with pytest.raises(ValueError, match=f"'backbone'.*{match}"):
        fit(module, monitor.EmbeddingMonitor("backbone", every_n_steps=1))
    assert_clean(module, monitor.EmbeddingMonitor())


def test_a_list_of_views_is_as_many_views():
    module = Mapped(lambda z: [z, 2 * z])
    found = logged(module, monitor.EmbeddingMonitor("backbone", every_n_steps=1))
    expected = mean_over(module.seen, lambda z: 1.5 * z.var(dim=0, correction=0).mean().sqrt())
    assert found["embeddings/backbone/std"] == pytest.approx(expected, rel=1e-4)


def test_embeddings_are_measured_before_an_operation_in_place():
    class InPlace(Plain):
        def training_step(self, batch, batch_idx):
            z_a, z_b = self.views(batch)
            loss = self.criterion(z_a, z_b)
            with torch.no_grad():
                z_a.zero_()
                z_b.zero_()
            return 0 * self.projector.weight.sum() + loss.detach()

    module = InPlace()
    expected = lambda: mean_over(module.seen, diagnostics.rank_me)  # noqa: E731
    assert logged(module)["embeddings/criterion/rank_me"] == pytest.approx(expected(), rel=1e-5)


def test_rows_bound_the_measured_embeddings_and_no_random_number_is_drawn():
    module = Plain()
    callback = monitor.EmbeddingMonitor(every_n_steps=1, rows=8)
    found = logged(module, callback)
    chosen = [z[torch.arange(4) * 3] for z in module.seen]
    assert found["embeddings/criterion/rank_me"] == pytest.approx(mean_over(chosen, diagnostics.rank_me), rel=1e-5)
    state = torch.get_rng_state()
    fit(Plain(), callback)
    after_with = torch.get_rng_state()
    torch.set_rng_state(state)
    fit(Plain(), monitor.EmbeddingMonitor(every_n_steps=10**6))
    assert torch.equal(torch.get_rng_state(), after_with)


@pytest.mark.parametrize("measured", [True, False])
def test_the_monitor_changes_no_number_of_the_training(measured):
    def losses(callback):
        module = Plain(VICRegEntropy("pairwise"))
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
        fit(module, callback, max_epochs=3)
        return module.projector.weight

    watched = losses(monitor.EmbeddingMonitor(every_n_steps=1 if measured else 10**6))
    assert torch.equal(watched, losses(lightning.Callback()))


def test_a_compiled_criterion_is_seen_from_outside():
    module = Plain(torch.compile(VICRegEntropy("log_det"), backend="eager"))
    found = logged(module)
    assert found["embeddings/criterion/rank_me"] == pytest.approx(mean_over(module.seen, diagnostics.rank_me), rel=1e-5)
    assert found["embeddings/criterion/loss"] == pytest.approx(module.criterion(*module.seen).item(), rel=1e-5)
    assert_clean(module, monitor.EmbeddingMonitor())


def test_every_measured_step_reaches_the_logger_at_any_interval_of_logging(tmp_path):
    logger = lightning.loggers.CSVLogger(tmp_path)
    fit(Plain(), monitor.EmbeddingMonitor(every_n_steps=1), logger=logger, log_every_n_steps=50)
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert "embeddings/criterion/rank_me" in rows[0] and len(rows) == 3


# how a step ends


class Ending(Plain):
    """A module whose steps end in an unusual way.

    If `end` is an error, step `at` raises it. If `end` is "no loss", no step returns a loss.
    If `end` is -1, a hook returns -1, which ends each epoch at batch `at`.
    """

    def __init__(self, end, at=1):
        super().__init__()
        self.end, self.at, self.count = end, at, 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.count += 1
        if self.count == self.at and isinstance(self.end, BaseException):
            raise self.end
        return None if self.end == "no loss" else loss

    def on_train_batch_start(self, batch, batch_idx):
        if self.end == -1 and batch_idx >= self.at:
            return -1
        return None


@pytest.mark.parametrize("every_n_steps", [1, 2, 100])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_epoch_that_the_module_ends_leaves_nothing(every_n_steps, at):
    module, callback = Ending(-1, at=at), monitor.EmbeddingMonitor(every_n_steps=every_n_steps)
    fit(module, callback, max_epochs=3)
    assert_clean(module, callback)


def test_calls_between_a_skipped_batch_and_the_next_are_not_measured():
    class Between(Ending):
        def on_train_epoch_end(self):
            self.criterion(*torch.randn(2, 8, 5))
            self.open = self.trainer.callbacks[0]._step

    module, callback = Between(-1, at=1), monitor.EmbeddingMonitor(every_n_steps=1)
    assert not any("-2/" in name for name in logged(module, callback, max_epochs=2))
    assert module.open is None
    assert_clean(module, callback)


@pytest.mark.parametrize("end", [RuntimeError("step"), KeyboardInterrupt(), SystemExit(), StopIteration()], ids=repr)
def test_a_step_that_raises_leaves_nothing(end):
    module, callback = Ending(end), monitor.EmbeddingMonitor(every_n_steps=1)
    with contextlib.suppress(RuntimeError, KeyboardInterrupt, SystemExit):
        fit(module, callback)
    assert_clean(module, callback)
    assert not callback._warned
    module.end = None
    assert "embeddings/criterion/rank_me" in logged(module, callback)


@pytest.mark.parametrize("options", [{"limit_train_batches": 1}, {"max_steps": 1, "max_epochs": -1}, {"fast_dev_run": True}])
def test_a_short_run_leaves_nothing(options):
    module, callback = Plain(), monitor.EmbeddingMonitor(every_n_steps=1)
    fit(module, callback, **options)
    assert_clean(module, callback)


def test_validation_in_the_middle_is_not_measured():
    module, callback = Plain(), monitor.EmbeddingMonitor(every_n_steps=1)
    names = logged(module, callback, val_check_interval=1)
    assert not any("-2/" in name for name in names)
    assert_clean(module, callback)


def test_an_accumulated_and_a_skipped_step_leave_nothing():
    module, callback = Ending("no loss"), monitor.EmbeddingMonitor(every_n_steps=1)
    fit(module, callback, accumulate_grad_batches=2)
    assert_clean(module, callback)


def test_a_closure_that_calls_the_step_again_leaves_nothing():
    module, callback = Plain(), monitor.EmbeddingMonitor(every_n_steps=1)
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=1e-3, max_iter=20)
    fit(module, callback)
    assert_clean(module, callback)


def test_a_last_batch_of_one_row_is_passed_over():
    class Named(Plain):
        def training_step(self, batch, batch_idx):
            return self.projector(batch[0][:, 0]).square().mean()

    module, callback = Named(nn.MSELoss()), monitor.EmbeddingMonitor("projector", every_n_steps=1)
    trainer = trainer_of(callback)
    with pytest.warns(UserWarning, match="at least two rows"):
        trainer.fit(module, loader(rows=13))
    assert trainer.global_step == 2 and trainer.callback_metrics["embeddings/collapsed"] == 0
    assert_clean(module, callback)


def test_a_module_that_is_compiled_as_a_whole_gives_advice_and_keeps_nothing():
    module, callback = Plain(), monitor.EmbeddingMonitor(every_n_steps=1)
    with pytest.warns(UserWarning, match="compile its submodules"):
        fit(torch.compile(module, backend="eager"), callback)
    assert_clean(module, callback)


def test_fit_may_be_called_twice_and_with_two_monitors():
    module = Plain()
    first, second = (monitor.EmbeddingMonitor(every_n_steps=1, prefix=prefix) for prefix in ("a", "b"))
    for _ in range(2):
        found = logged(module, first, callbacks=[second])
        assert found["a/criterion/rank_me"] == found["b/criterion/rank_me"]
        assert_clean(module, first)


def test_monitors_of_several_modules_see_each_its_own_and_see_it_once():
    class Two(Plain):
        def __init__(self):
            super().__init__(nn.MSELoss())
            self.head = nn.Linear(5, 3)

        def views(self, batch):
            return [self.head(z) for z in super().views(batch)]

    module = Two()
    of_head, of_both = (monitor.EmbeddingMonitor(name, every_n_steps=1, prefix=name) for name in ("head", "projector"))
    other = monitor.EmbeddingMonitor("projector", every_n_steps=1, prefix="other", rows=24)
    found = logged(module, of_head, callbacks=[of_both, other])
    assert {name.split("/")[1] for name in found if name.startswith("head/")} == {"head", "collapsed"}
    assert {name.split("/")[1] for name in found if name.startswith("projector/")} == {"projector", "collapsed"}
    expected = mean_over(module.seen, diagnostics.rank_me)
    assert found["projector/projector/rank_me"] == found["other/projector/rank_me"] == pytest.approx(expected, rel=1e-5)
    assert_clean(module, of_head)


def test_a_measured_step_removes_its_hooks_when_it_is_deleted():
    module = Plain()
    step = monitor.MeasuredStep(module, "projector", rows=8)
    assert module.projector._forward_hooks
    gone = weakref.ref(step)
    del step
    gc.collect()
    assert gone() is None and not module.projector._forward_hooks


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"])
@pytest.mark.parametrize("measured_name", [None, "projector"])
def test_modules_and_monitors_copy_in_the_middle_of_a_measured_step(copied, measured_name):
    copies = []

    class Copying(Plain):
        def training_step_of_copy(self, batch):
            self.criterion(*self.views(batch))

        def training_step(self, batch, batch_idx):
            z_a, z_b = self.views(batch)
            copies.extend([copied(self.projector), copied(self.criterion), copied(self.trainer.callbacks[0])])
            # calls of the copies must not be measured
            copies[-2](copies[-3](batch[0][:, 0]), z_b)
            copy.deepcopy(self).training_step_of_copy(batch)
            return self.criterion(z_a, z_b)

    module, callback = Copying(), monitor.EmbeddingMonitor(measured_name, every_n_steps=1)
    found = logged(module, callback)
    expected = mean_over(module.seen, diagnostics.rank_me)
    assert found[f"embeddings/{measured_name or 'criterion'}/rank_me"] == pytest.approx(expected, rel=1e-5)
    assert all(step_owner._step is None for step_owner in copies[2::3])
    assert_clean(module, callback)


def test_a_copy_of_a_measured_module_is_not_measured():
    module = Plain(nn.MSELoss())
    step = monitor.MeasuredStep(module, "projector", rows=8)
    for copied in (copy.deepcopy(module.projector), pickle.loads(pickle.dumps(module.projector))):
        copied(torch.randn(4, 6))
    assert step.embeddings == {}
    module.projector(torch.randn(4, 6))
    assert len(step.embeddings["projector"]) == 1
    step.close()
    module.projector(torch.randn(4, 6))
    module.criterion = VICReg()
    module.criterion(*torch.randn(2, 8, 5))
    assert len(step.embeddings["projector"]) == 1 and not step.terms
    # no observer is left, so criteria spend no time on notifying one
    assert not OBSERVERS


# steps that are not measured, and warnings


def test_steps_in_between_are_left_alone_and_say_nothing():
    class Quiet(Plain):
        def training_step(self, batch, batch_idx):
            self.hooked = bool(self.projector._forward_hooks) or len(OBSERVERS) > 0
            return super().training_step(batch, batch_idx)

    module, callback = Quiet(), monitor.EmbeddingMonitor(every_n_steps=2)
    fit(module, callback)
    assert not module.hooked and not callback._warned


def test_steps_are_counted_through_epochs_that_are_shorter(monkeypatch):
    callback = monitor.EmbeddingMonitor(every_n_steps=3)
    calls = []
    monkeypatch.setattr(callback, "_plot", lambda *_: calls.append(1))
    # five epochs have two steps each, and the monitor measures steps 1, 4, 7 and 10
    fit(Plain(), callback, max_epochs=5)
    assert len(calls) == 4


def test_a_step_without_embeddings_warns_once():
    class Idle(Plain):
        def __init__(self):
            super().__init__()
            self.head = self.projector
            del self.projector

        def training_step(self, batch, batch_idx):
            return self.head(batch[0]).square().mean()

    with pytest.warns(UserWarning, match="found no embeddings") as caught:
        found = logged(Idle(), max_epochs=3)
    assert sum("found no embeddings" in str(warning.message) for warning in caught) == 1
    assert not any("embeddings" in name for name in found)


def test_collapse_raises_the_alarm_that_was_asked_for():
    with pytest.warns(UserWarning, match="criterion: complete collapse"):
        found = logged(Plain(scale=0.0))
    assert found["embeddings/collapsed"] == 1
    assert found["embeddings/criterion/pairwise_upper_nats"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(RuntimeError, match="collapse"):
        fit(Plain(scale=0.0), monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="raise"))
    with pytest.warns(UserWarning, match="collapse"):
        stopped = fit(Plain(scale=0.0), monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="stop"))
    assert stopped.global_step == 1


def test_views_that_collapsed_to_two_points_are_an_alarm():
    class TwoPoints(Plain):
        def views(self, batch):
            z_a, z_b = super().views(batch)
            return 0 * z_a + 1, 0 * z_b - 1

    with pytest.warns(UserWarning, match="complete collapse"):
        logged(TwoPoints())


def test_all_ranks_stop_when_one_of_them_has_collapsed(monkeypatch):
    # replaces the sum over two ranks: this rank is healthy, and the other rank has collapsed
    def reduce(strategy, here, reduce_op):
        assert reduce_op == "sum"
        if here.ndim < 2:
            return here
        other = here.clone()
        other[0] = torch.tensor([1.0, 1.0])
        return here + other

    monkeypatch.setattr(lightning.strategies.SingleDeviceStrategy, "reduce", reduce)
    callback = monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="stop")
    with pytest.warns(UserWarning, match="another rank"):
        trainer = fit(Plain(), callback)
    assert trainer.global_step == 1 and trainer.callback_metrics["embeddings/collapsed"] == 0.5


def test_a_rank_that_saw_other_criteria_does_not_wait_for_the_others(monkeypatch):
    # the first rank logs a criterion `elsewhere`, which this rank lacks, and does not log `local`, which this rank has
    first_rank = ["collapsed", "elsewhere/rank_me", "criterion/rank_me"]
    strategy = lightning.strategies.SingleDeviceStrategy
    monkeypatch.setattr(strategy, "broadcast", lambda strategy, names: first_rank)
    shapes = []
    monkeypatch.setattr(strategy, "reduce", lambda strategy, here, reduce_op: shapes.append(here.shape) or here)
    found = logged(Several())
    # ignore the scalars, with which Lightning itself adds up the lengths of the loaders
    assert {shape for shape in shapes if len(shape)} == {(3, 2)}
    assert {name for name in found if name.startswith("embeddings")} == {"embeddings/collapsed", "embeddings/criterion/rank_me"}


def test_embeddings_that_are_not_finite_are_an_alarm_and_no_crash():
    with pytest.warns(UserWarning, match="NaN or inf"):
        found = logged(Plain(scale=float("nan")))
    assert found["embeddings/collapsed"] == 1


# figures


class Figures(lightning.loggers.CSVLogger):
    """A logger that accepts figures, like TensorBoard's logger."""

    names: list

    @property
    def experiment(self):
        experiment = super().experiment
        experiment.add_figure = lambda name, figure, global_step: self.names.append(name)
        return experiment


def test_the_spectrum_is_plotted_to_files_and_to_loggers(tmp_path):
    pytest.importorskip("matplotlib")
    logger = Figures(tmp_path)
    logger.names = []
    fit(Plain(), monitor.EmbeddingMonitor(every_n_steps=1, spectrum_to=tmp_path / "plots"), logger=logger)
    names = sorted(path.name for path in (tmp_path / "plots").glob("*.png"))
    assert names == ["spectrum-criterion-0.png", "spectrum-criterion-1.png"]
    assert logger.names == ["embeddings/criterion/spectrum"] * 2


class LogsItself(Plain):
    """A module that logs a number in each step."""

    def training_step(self, batch, batch_idx):
        self.log("own", 1.0)
        return super().training_step(batch, batch_idx)


class Recorder(lightning.loggers.Logger):
    """A logger that has only the members that Lightning requires."""

    name, version = "recorder", 0

    def __init__(self):
        super().__init__()
        self.steps = {}

    def log_metrics(self, metrics, step):
        for name in metrics:
            self.steps.setdefault(name, []).append(step)

    def log_hyperparams(self, *given, **named):
        pass


def test_numbers_have_the_step_under_which_lightning_logs_in_any_logger():
    logger = Recorder()
    fit(LogsItself(), monitor.EmbeddingMonitor(every_n_steps=1), logger=logger, log_every_n_steps=1)
    assert logger.steps["embeddings/criterion/rank_me"] == logger.steps["own"] == [0, 1]


class ReturnsDict(nn.Module):
    """A projector whose output the monitor cannot read."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return {"z": self.layer(x)}


class SkipsSteps(Plain):
    """A module that calls its criterion only in the first step. Its projector returns a dict."""

    def __init__(self):
        super().__init__()
        self.projector = ReturnsDict(self.projector)

    def training_step(self, batch, batch_idx):
        z = [self.projector(x)["z"] for x in batch[0].unbind(1)]
        return self.criterion(*z) if batch_idx == 0 else sum(part.sum() for part in z)


def test_a_step_without_a_call_does_not_end_a_run_whose_criterion_is_measured():
    with pytest.warns(UserWarning, match="found no embeddings"):
        assert "embeddings/criterion/rank_me" in logged(SkipsSteps())


class Slashed(Plain):
    """A module whose criterion has a slash in its name."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.losses = nn.ModuleDict({"image/text": VICReg()})

    def training_step(self, batch, batch_idx):
        return self.losses["image/text"](*self.views(batch))


def test_a_name_with_a_slash_is_no_folder(tmp_path):
    pytest.importorskip("matplotlib")
    fit(Slashed(), monitor.EmbeddingMonitor(every_n_steps=1, spectrum_to=tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["spectrum-losses.image_text-0.png", "spectrum-losses.image_text-1.png"]


def test_a_logger_with_figures_needs_no_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("it_losses.adapters.embedding_numbers.can_plot", lambda: False)
    logger = Figures(tmp_path)
    logger.names = []
    fit(Plain(), monitor.EmbeddingMonitor(every_n_steps=1), logger=logger)
    assert logger.names == []


def test_a_folder_for_plots_needs_matplotlib_from_the_start(monkeypatch, tmp_path):
    def absent(name, *, install):
        raise ImportError(f"no {name}. Run: {install}")

    monkeypatch.setattr(monitor, "framework", absent)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        monitor.EmbeddingMonitor(spectrum_to=tmp_path)


@pytest.mark.parametrize("eigenvalues", [[4.0, 1.0, 0.0], [0.0, 0.0], [float("nan")] * 2])
def test_the_plot_shows_the_positive_eigenvalues(eigenvalues, tmp_path):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = monitor.spectrum_figure(torch.tensor(eigenvalues))
        figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [value for value in eigenvalues if value > 0]


# arguments and cost


@pytest.mark.parametrize(("options", "match"), [({"every_n_steps": 0}, "every_n_steps"), ({"rows": 1}, "rows")])
def test_errors_of_wrong_constants_name_them(options, match):
    with pytest.raises(ValueError, match=match):
        monitor.EmbeddingMonitor(**options)


def test_an_unknown_reaction_to_collapse_is_refused():
    with pytest.raises(ValueError, match="on_collapse"):
        monitor.EmbeddingMonitor(on_collapse="panic")


@pytest.mark.parametrize(
    ("name", "bad"),
    [("every_n_steps", 0), ("every_n_steps", 1.5), ("every_n_steps", "10"), ("rows", 1), ("on_collapse", "panic")],
)
def test_constants_are_checked_whenever_they_are_set(name, bad):
    callback = monitor.EmbeddingMonitor()
    before = getattr(callback, name)
    with pytest.raises(ValueError, match=name):
        setattr(callback, name, bad)
    assert getattr(callback, name) == before


@pytest.mark.parametrize("criterion", [nn.MSELoss(), VICReg()], ids=repr)
def test_the_error_of_an_unknown_name_lists_the_known_names(criterion):
    module = Plain(criterion)
    with pytest.raises(ValueError, match=r"no_such_module.*projector"):
        fit(module, monitor.EmbeddingMonitor("no_such_module"))


def test_naming_a_criterion_as_the_measured_module_is_refused():
    module = Several()
    with pytest.raises(ValueError, match=r"'regularizer' is a criterion.*Leave the name out"):
        fit(module, monitor.EmbeddingMonitor("regularizer"))


def test_nothing_to_measure_is_an_error():
    module = Plain(nn.MSELoss())
    module.head = module.projector
    del module.projector
    module.training_step = lambda batch, batch_idx: module.head(batch[0]).square().mean()
    with pytest.raises(ValueError, match="nothing to measure"):
        fit(module, monitor.EmbeddingMonitor())


def test_a_measured_step_of_256_x_2048_takes_less_than_100_ms_of_one_thread():
    torch.set_num_threads(1)
    root, criterion = nn.Module(), VICReg()
    root.criterion = criterion
    callback = monitor.EmbeddingMonitor()
    views = torch.randn(2, 256, 2048)
    taken = []
    for _ in range(5):
        step = monitor.MeasuredStep(root, None, callback.rows)
        start = time.process_time()
        step.called(criterion, views, {"loss": views.sum()})
        step.close()
        callback._measure(step)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.1


@pytest.mark.parametrize("shape", [(2, 8192, 64), (16, 512, 256)])
def test_the_cost_does_not_grow_with_the_batch(shape):
    root, criterion = nn.Module(), VICReg()
    root.criterion = criterion
    step = monitor.MeasuredStep(root, None, rows=512)
    step.called(criterion, torch.randn(shape), {})
    step.close()
    assert sum(len(z) for z in step.embeddings["criterion"]) <= 512


# two ranks


@pytest.mark.slow
def test_ranks_that_see_different_modules_log_the_common_ones_and_stop_together(tmp_path):
    program = Path(__file__).with_name("monitor_ddp.py")
    command = [sys.executable, "-W", "ignore", str(program), str(tmp_path / "log.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "log.json").read_text())
    assert found["steps"] == 3
    assert [row["collapsed"] for row in found["rows"]] == [0, 0, 0.5]
    assert all("everywhere/rank_me" in row and "elsewhere/rank_me" not in row for row in found["rows"])
    # in step 2 only the first rank measures the entropy; in step 3 the collapsed second rank lowers the mean over both ranks
    assert found["rows"][2]["everywhere/pairwise_upper_nats"] < 0.6 * found["rows"][1]["everywhere/pairwise_upper_nats"]
