"""EmbeddingMonitor: what it logs is true of the step's embeddings, under either name of Lightning, and it raises its alarm."""

from pathlib import Path

import pytest
import torch
from torch import nn

from it_losses import VICReg, VICRegEntropy, diagnostics

lightning = pytest.importorskip("pytorch_lightning")
monitor = pytest.importorskip("it_losses.adapters.lightning")

pytestmark = pytest.mark.filterwarnings("ignore")

QUIET = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def module_of(package, criterion, *, scale=1.0):
    class Plain(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.projector = nn.Linear(6, 5)
            self.criterion = criterion
            self.seen = None

        def training_step(self, batch, batch_idx):
            z_a, z_b = (scale * self.projector(x) for x in batch[0].unbind(1))
            self.seen = torch.cat([z_a, z_b]).detach()
            return self.criterion(z_a, z_b)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    torch.manual_seed(0)
    return Plain()


def fit(package, module, callback, **options):
    torch.manual_seed(1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 2, 6)), batch_size=12)
    trainer = package.Trainer(callbacks=[callback], **QUIET | {"logger": False} | options)
    trainer.fit(module, loader)
    return trainer


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_log_says_what_the_step_saw(package):
    package = pytest.importorskip(package)
    module = module_of(package, VICRegEntropy("log_det"))
    logged = fit(package, module, monitor.EmbeddingMonitor(every_n_steps=1)).callback_metrics
    z = module.seen
    assert logged["embeddings/rank_me"].item() == pytest.approx(diagnostics.rank_me(z).item(), rel=1e-5)
    gaussian = diagnostics.gaussian_entropy(z, ridge=1e-4).item()
    assert logged["embeddings/gaussian_entropy_nats"].item() == pytest.approx(gaussian, rel=1e-4)
    terms = module.criterion.terms(*z.chunk(2))
    assert logged["embeddings/invariance"].item() == pytest.approx(terms.invariance.item(), rel=1e-5)
    assert logged["embeddings/entropy"].item() == pytest.approx(terms.entropy.item(), rel=1e-5)
    assert logged["embeddings/pairwise_lower_nats"] <= logged["embeddings/pairwise_upper_nats"]
    assert logged["embeddings/collapsed"] == 0


def test_every_measured_step_reaches_the_logger_whatever_lightning_logs(tmp_path):
    logger = lightning.loggers.CSVLogger(tmp_path)
    fit(
        lightning,
        module_of(lightning, VICReg()),
        monitor.EmbeddingMonitor(every_n_steps=1),
        logger=logger,
        log_every_n_steps=50,
    )
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert "embeddings/rank_me" in rows[0] and len(rows) == 3


def test_it_watches_a_named_module_of_a_model_without_our_criteria():
    class Other(nn.Module):
        def forward(self, z_a, z_b):
            return (z_a - z_b).square().mean()

    module = module_of(lightning, Other())
    logged = fit(lightning, module, monitor.EmbeddingMonitor("projector", every_n_steps=1, prefix="z")).callback_metrics
    assert logged["z/rank_me"].item() == pytest.approx(diagnostics.rank_me(module.seen).item(), rel=1e-5)
    assert "z/invariance" not in logged


def test_a_step_that_asks_for_the_terms_is_seen_too():
    class Wordy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = VICRegEntropy("log_det")

        def forward(self, z_a, z_b):
            return self.inner.terms(z_a, z_b).loss

    module = module_of(lightning, Wordy())
    module.head = module.projector
    del module.projector
    module.projector = lambda x: module.head(x)
    logged = fit(lightning, module, monitor.EmbeddingMonitor(every_n_steps=1)).callback_metrics
    assert logged["embeddings/rank_me"].item() == pytest.approx(diagnostics.rank_me(module.seen).item(), rel=1e-5)
    assert "terms" not in vars(module.criterion.inner)


def test_a_step_in_which_nothing_was_seen_is_not_passed_over_in_silence():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = VICReg()

        def forward(self, z_a, z_b):
            return (z_a - z_b).square().mean()

    module = module_of(lightning, Idle())
    module.head = module.projector
    del module.projector
    module.projector = lambda x: module.head(x)
    with pytest.warns(UserWarning, match="saw no embeddings"):
        fit(lightning, module, monitor.EmbeddingMonitor(every_n_steps=1))


def test_steps_in_between_are_left_alone():
    module = module_of(lightning, VICReg())
    callback = monitor.EmbeddingMonitor(every_n_steps=2)
    calls = []
    callback._plot = lambda *_: calls.append(1)
    fit(lightning, module, callback)
    assert len(calls) == 1
    assert not module.criterion._forward_pre_hooks and not module.projector._forward_hooks


def test_steps_are_counted_through_epochs_that_are_shorter():
    callback = monitor.EmbeddingMonitor(every_n_steps=3)
    calls = []
    callback._plot = lambda *_: calls.append(1)
    # five epochs of two steps: the first, fourth, seventh and tenth
    fit(lightning, module_of(lightning, VICReg()), callback, max_epochs=5)
    assert len(calls) == 4


def test_collapse_raises_the_alarm_that_was_asked_for():
    with pytest.warns(UserWarning, match="collapse"):
        logged = fit(lightning, module_of(lightning, VICReg(), scale=0.0), monitor.EmbeddingMonitor(every_n_steps=1))
    assert logged.callback_metrics["embeddings/collapsed"] == 1
    with pytest.raises(RuntimeError, match="collapse"):
        fit(
            lightning, module_of(lightning, VICReg(), scale=0.0), monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="raise")
        )
    stopped = monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="stop")
    assert fit(lightning, module_of(lightning, VICReg(), scale=0.0), stopped).global_step == 1


def test_all_ranks_stop_when_one_of_them_has_collapsed(monkeypatch):
    # what the mean over two ranks is, where this one is well and the other is not
    mean = lambda strategy, here, reduce_op: (here + here.new_ones(())) / 2  # noqa: E731
    monkeypatch.setattr(lightning.strategies.SingleDeviceStrategy, "reduce", mean)
    callback = monitor.EmbeddingMonitor(every_n_steps=1, on_collapse="stop")
    with pytest.warns(UserWarning, match="another rank"):
        assert fit(lightning, module_of(lightning, VICReg()), callback).global_step == 1


def test_embeddings_that_are_not_finite_are_an_alarm_and_no_crash():
    with pytest.warns(UserWarning, match="NaN or inf"):
        logged = fit(lightning, module_of(lightning, VICReg(), scale=float("nan")), monitor.EmbeddingMonitor(every_n_steps=1))
    assert logged.callback_metrics["embeddings/collapsed"] == 1


def test_the_spectrum_is_plotted_to_files_and_to_loggers(tmp_path):
    pytest.importorskip("matplotlib")
    figures = []

    class Logger(lightning.loggers.CSVLogger):
        @property
        def experiment(self):
            experiment = super().experiment
            experiment.add_figure = lambda name, figure, global_step: figures.append((name, global_step))
            return experiment

    callback = monitor.EmbeddingMonitor(every_n_steps=1, spectrum_to=tmp_path / "plots")
    fit(lightning, module_of(lightning, VICReg()), callback, logger=Logger(tmp_path))
    assert len(list((tmp_path / "plots").glob("spectrum-*.png"))) == 2
    assert [name for name, _ in figures] == ["embeddings/spectrum"] * 2


def test_the_plot_shows_the_positive_eigenvalues():
    pytest.importorskip("matplotlib")
    figure = monitor.spectrum_figure(torch.tensor([4.0, 1.0, 0.0]))
    assert figure.axes[0].lines[0].get_ydata().tolist() == [4.0, 1.0]


def test_wrong_arguments_say_what_is_needed():
    with pytest.raises(ValueError, match="every_n_steps"):
        monitor.EmbeddingMonitor(every_n_steps=0)
    with pytest.raises(ValueError, match="on_collapse"):
        monitor.EmbeddingMonitor(on_collapse="panic")
    for criterion in (nn.MSELoss(), VICReg()):
        module = module_of(lightning, criterion)
        module.encoder = nn.Linear(6, 5)
        with pytest.raises(ValueError, match="encoder"):
            fit(lightning, module, monitor.EmbeddingMonitor("no_such_module"))
