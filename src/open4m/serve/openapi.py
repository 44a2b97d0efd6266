"""The OpenAPI document of the endpoints, read off the dataclasses of requests and answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from open4m import __version__
from open4m.generate.request import VERBS
from open4m.generate.schema import of_class, verb_schema
from open4m.serve import answers


@dataclass(frozen=True)
class Endpoint:
    """``name``: of the method that answers. ``answer``: its dataclass, or a media type. ``body``: a dataclass, or
    ``"request"``: a request of any verb. ``query``: types by name."""

    method: str
    path: str
    name: str
    summary: str
    answer: type | str
    body: type | str | None = None
    query: dict[str, str] = field(default_factory=dict)
    status: int = 200


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    named = [thing for thing in vars(answers).values() if dataclasses.is_dataclass(thing)]
    requests = {f"Request_{verb}": verb_schema(verb) for verb in VERBS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "open4m", "version": __version__, "description": "One model, any modality from any others."},
        "paths": paths,
        "components": {
            "schemas": {**{cls.__name__: of_class(cls) for cls in named}, **requests},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if kind == "int" else "string"}}
        for name, kind in re.findall(r"{(\w+):(\w+)}", endpoint.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": {"type": kind}} for name, kind in endpoint.query.items()]
    good = {endpoint.answer: {}} if isinstance(endpoint.answer, str) else _json(_of(endpoint.answer))
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            str(endpoint.status): {"description": "what was asked for", "content": good},
            "default": {"description": "what is wrong, and what to do", "content": _json(_of(answers.Error))},
        },
    }
    if endpoint.body is not None:
        verbs = {"anyOf": [{"$ref": f"#/components/schemas/Request_{verb}"} for verb in VERBS]}
        body = verbs if isinstance(endpoint.body, str) else _of(endpoint.body)
        found["requestBody"] = {"required": True, "content": _json(body)}
    return found


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _of(cls: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{cls.__name__}"}
