"""Our modules for lightly have the right learning-rate schedule for every way to limit the length of a Lightning run."""

from types import SimpleNamespace

import pytest
import torch

lightning = pytest.importorskip("pytorch_lightning")
pytest.importorskip("lightly")
pytest.importorskip("timm")
pretraining = pytest.importorskip("it_losses.adapters.lightly.pretraining")
modules = pytest.importorskip("it_losses.adapters.lightly.modules")

pytestmark = pytest.mark.filterwarnings("ignore")


class Tiny(pretraining.Pretraining):
    """A Pretraining with tiny layers in place of its networks, because only the optimizer and the schedule are tested."""

    def __init__(self, warmup_epochs):
        lightning.LightningModule.__init__(self)
        self.save_hyperparameters({"warmup_epochs": warmup_epochs, "batch_size_per_device": 4, "base_lr": 64.0})
        self.hparams.weight_decay = 0.0
        self.backbone, self.projection_head, self.online_classifier = (torch.nn.Linear(2, 2) for _ in range(3))
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return 0 * sum(parameter.sum() for parameter in self.parameters())


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(1)


def rates(warmup_epochs, *, batches=40, data=None, **options):
    """The learning rate of every batch; the constants of Tiny make the largest rate 1."""
    model = Tiny(warmup_epochs)
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = lightning.Trainer(accelerator="cpu", **quiet, **options)
    trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(batches, 1) if data is None else data))
    return model.rates


def warmed_up(found):
    """The number of steps up to the largest learning rate; 0 if the run starts with it."""
    return max(range(len(found)), key=found.__getitem__) + 1 if found[0] < 1 else 0


@pytest.mark.parametrize(
    ("warmup_epochs", "options", "expected"),
    [
        (0, {"max_steps": 20}, 0),
        (0, {"max_epochs": 2}, 0),
        (0, {"max_steps": 20, "data": Endless()}, 0),
        (10, {"max_steps": 20}, 2),
        (10, {"max_steps": 20, "data": Endless()}, 2),
        (10, {"max_epochs": 2}, 8),
        # an epoch has ten steps, fewer than a tenth of the run, so the warmup lasts the whole epoch
        (1, {"max_steps": 200, "batches": 10}, 10),
        (1, {"max_steps": 200, "batches": 10, "max_epochs": 1000}, 10),
        (0.5, {"max_epochs": 20, "batches": 10}, 5),
        (1, {"max_epochs": 20, "batches": 10, "limit_train_batches": 4}, 4),
        # max_steps ends this run within the first epoch, so the warmup lasts a tenth of max_steps
        (10, {"max_steps": 20, "max_epochs": 100}, 2),
    ],
)
def test_the_warmup_is_that_many_epochs_and_a_tenth_of_the_run_at_most(warmup_epochs, options, expected):
    found = rates(warmup_epochs, **options)
    assert max(found) == pytest.approx(1)
    assert warmed_up(found) == expected


def test_accumulated_batches_are_one_step():
    found = rates(1, batches=10, max_epochs=20, accumulate_grad_batches=2)
    # an epoch of ten batches is five optimizer steps of two batches each
    assert warmed_up(found[::2]) == 5 and len(found) == 200


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": -1}, {"max_time": "00:00:01:00"}, {"max_epochs": 3, "data": Endless(), "limit_train_batches": None}],
)
def test_a_run_without_an_end_says_which_option_gives_it_one(options):
    with pytest.raises(ValueError, match=r"max_steps=\.\.\."):
        rates(1, **options)


@pytest.mark.parametrize("options", [{"max_epochs": 0}, {"max_epochs": 1, "limit_train_batches": 0}, {"max_steps": 0}])
def test_a_run_of_no_steps_trains_nothing(options):
    assert rates(1, **options) == []


def test_the_teachers_momentum_needs_the_number_of_steps_too():
    trainer = SimpleNamespace(estimated_stepping_batches=float("inf"), limit_train_batches=1.0, global_step=0)
    with pytest.raises(ValueError, match="max_steps"):
        modules.BYOLLogDet.objective(SimpleNamespace(trainer=trainer), [], [])
