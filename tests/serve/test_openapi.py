"""The OpenAPI document says what there is, and what answers look like."""

import re

from serving import TEXT, photo, serving

from open4m import config as configs
from open4m.generate.request import VERBS
from open4m.serve import answers
from open4m.serve.app import ENDPOINTS
from open4m.serve.limits import Limits
from open4m.serve.openapi import document


def check(schema, value, document, where="answer"):
    """A JSON Schema validator of what the document uses."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        failures = []
        for choice in schema["anyOf"]:
            try:
                return check(choice, value, document, where)
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError(f"{where}: {failures}")
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if "type" in schema and schema["type"] != "null":
        assert isinstance(value, kinds[schema["type"]]), f"{where}: {value!r} is no {schema['type']}"
    if schema.get("type") == "null":
        assert value is None, where
    if schema.get("type") == "array" and "items" in schema:
        for number, item in enumerate(value):
            check(schema["items"], item, document, f"{where}[{number}]")
    if "properties" in schema:
        assert set(schema["required"]) <= value.keys() <= schema["properties"].keys(), where
        for name, item in value.items():
            check(schema["properties"][name], item, document, f"{where}.{name}")
    elif isinstance(schema.get("additionalProperties"), dict):
        for name, item in value.items():
            check(schema["additionalProperties"], item, document, f"{where}.{name}")


def test_answers_are_as_the_document_says(model):
    with serving(model) as service:
        made = service.ask("GET", "/api/openapi.json")[2]
        assert made == document(ENDPOINTS)
        result = service.ask("POST", "/api/run", photo(0, entropies=True))[2]
        job = service.ask("POST", "/api/jobs", TEXT)[2]
        asked = {
            "/api/run": result,
            "/api/jobs": job,
            "/api/jobs/{job}": service.ask("GET", f"/api/jobs/{job['id']}")[2],
        }
        for path in ("/health", "/ready", "/api/model", "/api/status"):
            asked[path] = service.ask("GET", path)[2]
        asked["/api/recipes/{key}"] = service.ask("GET", f"/api/recipes/{result['recipe']['key']}")[2]
        for path, answer in asked.items():
            operation = made["paths"][path].get("get") or made["paths"][path]["post"]
            good = next(found for status, found in operation["responses"].items() if status.startswith("2"))
            check(good["content"]["application/json"]["schema"], answer, made, path)
        error = service.ask("GET", "/api/jobs/x")[2]
        check(
            made["paths"]["/health"]["get"]["responses"]["default"]["content"]["application/json"]["schema"],
            error,
            made,
        )


def test_every_reference_is_there_and_every_verb_can_be_asked_for():
    made = document(ENDPOINTS)
    text = repr(made)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in made["components"]["schemas"]
    body = made["paths"]["/api/run"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert len(body["anyOf"]) == len(VERBS)
    operations = [one for path in made["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(ENDPOINTS)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_the_page_about_the_service_names_every_endpoint_and_limit():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    for endpoint in ENDPOINTS:
        path = re.sub(r"{job:str}", "{id}", endpoint.path)
        path = re.sub(r"{number:int}", "{sample}" if "shown" not in path else "{number}", path)
        path = re.sub(r"{(\w+):\w+}", r"{\1}", path)
        assert path in page, path
    limits = Limits()
    for value in (limits.queue, limits.bytes, limits.pixels, limits.samples, limits.kept):
        assert f"| {value}" in page
    assert configs.to_dict(answers.Error(error="a")) == {"error": "a", "hint": ""}
