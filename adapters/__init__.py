"""Adapters to other frameworks: they translate names and conventions, and hold no mathematics.

lightly                   criteria with lightly's constructors, LightningModules, methods for its benchmark scripts
solo_learn                methods, configs and four ways to register them
stable_pretraining        criteria for `spt.Module`, and a forward for more than two views
lightning                 a callback that logs terms, entropies, rank and spectrum in any of these frameworks
eb_jepa                   criteria that return the dict of terms that its loops log
pytorch_metric_learning   a loss called as `loss(embeddings, ref_emb=...)`
drop_in                   base of drop-in criteria: the names, dtypes and pickles of the replaced library
conventions               the arguments of each library's VICReg and SIGReg, in our names
backbones                 timm models as encoders of large and of 32-pixel images

Importing it_losses imports none of these; importing an adapter imports at most its own framework.
"""

import importlib
from types import ModuleType


def framework(name: str, *, install: str) -> ModuleType:
    """Import a module of a framework. If its package is missing, the ImportError says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # an installed framework that fails to import raises its own error
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(
            f"this adapter needs {name.partition('.')[0]}, which is not installed. Run: {install}", name=name
        ) from error
