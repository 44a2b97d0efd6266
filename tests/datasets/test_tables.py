"""Tables are read row by row, whatever their size; the folder layout's tests read each kind."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_trees import save

from open4m.datasets import tables
from open4m.datasets.source import Source
from open4m.types import Open4MError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.lists(JSON, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), JSON, max_size=4),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_items_of_json_are_those_of_the_document(tmp_path_factory, document, chunk):
    folder = tmp_path_factory.mktemp("json")
    save(folder / "x.json", json.dumps(document, indent=chunk % 3 or None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK", chunk)  # values that are cut anywhere
        found = list(tables.items(Source(str(folder)), "x.json"))
    if isinstance(document, list):
        assert found == [("", item) for item in document]
    else:
        listed = {name: value if isinstance(value, list) else [value] for name, value in document.items()}
        assert found == [(name, item) for name, items in listed.items() for item in items]


@pytest.mark.parametrize(
    "text", ["", "3", "[1, 2", '{"a": [1, }', '{"a" 1}', "{1: 2}", "[" * 100, '["\\ud800"]', "\xff"]
)
def test_what_is_no_json_is_refused(tmp_path, text):
    save(tmp_path / "x.json", text.encode("latin-1"))
    with pytest.raises(Open4MError, match=r"x\.json"):
        list(tables.items(Source(str(tmp_path)), "x.json"))


@pytest.mark.parametrize(
    ("name", "content"), [("x.jsonl", b"3\n"), ("x.parquet", b"PAR1"), ("x.csv", b"a,b\n\xff,1\n")]
)
def test_damaged_tables_name_the_file(tmp_path, name, content):
    save(tmp_path / name, content)
    with pytest.raises(Open4MError, match=name.replace(".", r"\.")):
        list(tables.rows(Source(str(tmp_path)), name))


def test_columns_are_found_in_any_case():
    assert tables.column({"Image ": 1, "Caption": 2}, ["text", "caption"]) == "Caption"
    assert tables.column({"a": 1}, ["text"]) is None


def test_texts_are_the_json_of_items_and_their_values(tmp_path):
    save(tmp_path / "x.json", '{"a": [1.50, {"b": [2 ]}], "c": "d"}')
    source = Source(str(tmp_path))
    found = list(tables.texts(source, "x.json"))
    assert found == [("a", "1.50", 1.5), ("a", '{"b": [2 ]}', {"b": [2]}), ("c", '"d"', "d")]
    save(tmp_path / "y.json", "[" + "9" * 5000 + "]")
    with pytest.raises(Open4MError, match=r"y\.json: not readable as JSON"):
        list(tables.texts(source, "y.json"))
