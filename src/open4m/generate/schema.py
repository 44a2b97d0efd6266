"""JSON Schema of requests, read off the classes of the verbs: what a service tells its clients.

It says which JSON :meth:`~open4m.generate.request.Request.from_json` can read; whether it makes sense is checked there.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from open4m.generate.request import VERBS
from open4m.generate.request_base import FORMAT

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def schema() -> dict[str, Any]:
    """The schema of a request of any verb."""
    return {"$schema": DIALECT, "anyOf": [verb_schema(verb) for verb in VERBS]}


def verb_schema(verb: str) -> dict[str, Any]:
    """The schema of a request of one verb."""
    found = of_class(VERBS[verb])
    found["properties"] = {"format": {"const": FORMAT}, "verb": {"const": verb}, **found["properties"]}
    found["required"] = ["verb", *found["required"]]
    return {"description": VERBS[verb].__doc__, **found}


def of_class(cls: type) -> dict[str, Any]:
    """The schema of a dataclass as :func:`open4m.config.to_dict` writes it."""
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    missing = dataclasses.MISSING
    return {
        "type": "object",
        "properties": {f.name: _of(f.metadata["codec"].written if f.metadata else hints[f.name]) for f in fields},
        "required": [f.name for f in fields if f.default is missing and f.default_factory is missing],
        "additionalProperties": False,
    }


def _of(hint: Any) -> dict[str, Any]:
    """The schema of a type of the fields of requests."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(argument) for argument in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if origin is tuple and Ellipsis not in arguments:
        items = [_of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (list, tuple):
        return {"type": "array", "items": _of(arguments[0])}
    return of_class(hint)
