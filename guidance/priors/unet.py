"""diffusers' UNet2DConditionModel, and of diffusers only what it needs.

Imported plainly it brings every model of diffusers, transformers, peft and torch's compiler: 3 s for a network that is
built in 0.05. Here it comes from a copy of diffusers of its own, imported with those out of sight, for which diffusers
has its fallbacks. Nobody else sees the copy: whoever imports diffusers gets it whole. Where diffusers is loaded
already, or a version of it cannot be had this way, the plain import does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

OPTIONAL = ("transformers", "peft", "accelerate", "scipy", "torchvision", "torchao", "torch._dynamo")
CROWDS = ("diffusers.models.unets", "diffusers.models.transformers", "diffusers.hooks")  # that import all they hold
NAME = "diffusers.models.unets.unet_2d_condition"
COPY: dict[str, ModuleType] = {}


@contextmanager
def out_of_sight(names: tuple[str, ...]) -> Iterator[None]:
    """None of `names` can be imported: None is Python's own way to say that a package is not there."""
    before = {n: sys.modules[n] for n in names if n in sys.modules}
    sys.modules.update(dict.fromkeys(names))  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        yield
    finally:
        for n in names:
            sys.modules.pop(n, None)
        sys.modules.update(before)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a module, for a while another."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def undecorated(fn: Any = None, **_: Any) -> Any:
    """Instead of torch.compiler.disable, which imports the compiler: nothing here is compiled."""
    return fn if callable(fn) else lambda f: f


def taken() -> dict[str, ModuleType]:
    """The modules of diffusers that are imported, and then no longer are."""
    return {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] == "diffusers"}


@contextmanager
def own_diffusers() -> Iterator[None]:
    """Imports of diffusers, those in its functions too, find the copy; nothing changes where there is none."""
    if not COPY:
        yield
        return
    with out_of_sight(OPTIONAL):
        others = taken()
        sys.modules.update(COPY)
        try:
            yield
        finally:
            COPY.update(taken())
            sys.modules.update(others)


def hollow(name: str) -> None:
    """The package, without what its __init__ imports: its modules can be had one by one."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    parent, _, child = name.rpartition(".")
    sys.modules[name] = package
    setattr(sys.modules[parent], child, package)


def alone() -> Any:
    """The class, from a copy of diffusers that then is in COPY."""
    with ExitStack() as stack:
        stack.enter_context(out_of_sight(OPTIONAL))
        stack.enter_context(replaced(torch.compiler, "disable", undecorated))
        # this one reads the list of files of every package there is
        stack.enter_context(replaced(importlib.metadata, "packages_distributions", dict))
        stack.callback(taken)
        for name in CROWDS:
            importlib.import_module(name.rpartition(".")[0])
            hollow(name)
        found = importlib.import_module(NAME).UNet2DConditionModel
        COPY.update(taken())
        return found


def load() -> Any:
    if "diffusers" not in sys.modules:
        try:
            return alone()
        except Exception:  # another version, made otherwise: slower, and the same network
            pass
    return importlib.import_module(NAME).UNet2DConditionModel


if not TYPE_CHECKING:
    UNet2DConditionModel = load()
