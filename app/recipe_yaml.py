"""config.yaml: a recipe written, and read back with every name and type checked."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import yaml

from app.errors import UsageError
from app.recipes import Recipe


def to_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(plain(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def load_recipe(path: Path) -> Recipe:
    """Read config.yaml. UsageError for a file that is absent, no YAML, or has unknown or mistyped fields."""
    try:
        return build(Recipe, yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as e:
        raise UsageError(f"{path} does not exist; give the folder of an earlier run.") from e
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror}); give the folder of an earlier run.") from e
    except (yaml.YAMLError, TypeError, ValueError, OverflowError, RecursionError) as e:
        raise UsageError(f"{path} is not a Polymode recipe ({str(e).splitlines()[0]}); correct or replace it.") from e


def build(kind: Any, data: Any) -> Any:
    """A dataclass from nested dicts, checking names and scalar types. TypeError, ValueError or OverflowError for what
    does not fit."""
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__} must be a mapping")
    hints = typing.get_type_hints(kind)
    unknown = set(data) - set(hints)
    if unknown:
        raise TypeError(f"unknown field {sorted(map(str, unknown))[0]!r}")
    values = {}
    for name, value in data.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = build(hint, value)
        elif hint is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif typing.get_origin(hint) is tuple:
            of = typing.get_args(hint)[0]
            if not isinstance(value, list) or not all(isinstance(v, (of, int)) for v in value):
                raise TypeError(f"{name} must be a list of {of.__name__}, got {value!r}")
            values[name] = tuple(of(v) for v in value)
        elif type(value) is hint:
            values[name] = value
        else:
            raise TypeError(f"{name} must be {hint.__name__}, got {value!r}")
    return kind(**values)
