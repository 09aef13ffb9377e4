"""A YAML file as people write it: no key twice, and the environment's variables in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from llava_teamlora.errors import UserError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would silently take the last."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [str(key.value) for key, _ in node.value]  # as written: what `<<` brings may be said anew
    double = next((key for key in keys if keys.count(key) > 1), None)
    if double is not None:
        raise yaml.constructor.ConstructorError(None, None, f"the key {double!r} stands there twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def load_yaml(path: Path) -> Any:
    """Whatever the file holds.

    Raises:
        UserError: it cannot be read, is broken, or says a thing twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: broken YAML: {' '.join(str(error).split())}") from error


def with_variables(content: Any, path: Path) -> Any:
    """Put the environment's variables into every text: ``${NAME}``, or ``${NAME:-what holds without it}``.

    Raises:
        UserError: some are not set; all of them are named.
    """
    unset: dict[str, None] = {}

    def one(match: re.Match[str]) -> str:
        value = os.environ.get(match[1]) or match[2]
        if value is None:
            unset[match[1]] = None
        return value or ""

    def put(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(one, value)
        if isinstance(value, list):
            return [put(item) for item in value]
        return {key: put(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    done = put(content)
    if unset:
        names = ", ".join(unset)
        raise UserError(
            f"{path}: needs the environment's {names}, not set; {next(iter(unset))}=… llava-teamlora sweep {path}"
        )
    return done
