"""Results as clients get them agree with those of the request itself."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from serving import photo, wait, working

from open4m.generate import record, values
from open4m.generate.request import Request
from open4m.serve import results as module
from open4m.serve.limits import Refused
from open4m.serve.recipes import Recipes
from open4m.serve.results import Results, results_of


@pytest.fixture(scope="module")
def made(model):
    """Results, and the jobs of three requests: two samples with entropies, merged ones, an edit."""
    documents = [
        photo(1, ("depth", "semseg", "caption", "boxes"), samples=2, entropies=True),
        photo(2, ("depth",), merge="votes"),
        {**photo(3, ("rgb",)), "verb": "edit", "changes": [{"swap": "floor", "to": "cube"}], "keep": ["rgb"]},
    ]
    with working(model) as worker:
        jobs = [worker.submit(worker.checked(document)) for document in documents]
        wait(lambda: all(job.is_over for job in jobs))
        yield Results(worker, Recipes(worker.limits)), jobs, [Request.from_json(d).run(model) for d in documents]


def test_an_answer_holds_what_was_generated(made):
    results, (job, _, _), (outcome, _, _) = made
    answer = results.answer(job)
    assert [sample.seed for sample in answer.results] == [1, 2]
    assert [sample.title for sample in answer.results] == ["seed 1", "seed 2"]
    for sample, result in zip(answer.results, outcome.results, strict=True):
        for key, target in sample.targets.items():
            assert target.tokens == result.tokens[key].tolist()
            decoded = values.decode(target.value, "value")
            np.testing.assert_equal(
                np.asarray(getattr(decoded, "corners", decoded)),
                np.asarray(getattr(result[key], "corners", result[key])),
            )
            found = np.array(target.entropy, dtype=np.float32)
            np.testing.assert_allclose(found, result.entropy[key], atol=1e-5)
        assert sample.targets["depth"].grid == [4, 4]
        assert sample.targets["depth"].step["scheme"] == result.plan[0].scheme
        assert sample.targets["caption"].summary == result["caption"]
        assert len(sample.targets["caption"].words) == len(result.tokens["caption"])
    assert [(shown.title, shown.modality) for shown in answer.shown] == [("rgb", "rgb")]
    assert answer.frame == {"height": 32, "width": 32, "fit": "crop"}
    json.dumps(answer.recipe.request)


def test_values_may_be_left_out(made):
    results, (job, _, _), _ = made
    answer = results.answer(job, with_values=False)
    assert {target.value for sample in answer.results for target in sample.targets.values()} == {None}
    assert answer.shown[0].value is None


def test_a_merged_result_comes_first_and_has_no_tokens(made):
    results, (_, job, _), (_, outcome, _) = made
    answer = results.answer(job)
    assert [sample.merged for sample in answer.results] == [True, False, False, False, False]
    assert answer.results[0].title == "merged"
    assert answer.results[0].targets["depth"].tokens == []
    np.testing.assert_array_equal(values.decode(answer.results[0].targets["depth"].value, ""), outcome.merged["depth"])


def test_what_an_edit_extracts_and_changes_is_shown(made):
    results, (_, _, job), (_, _, outcome) = made
    answer = results.answer(job)
    assert [shown.title for shown in answer.shown] == [title for title, _, _ in outcome.shown]
    assert "semseg before" in [shown.title for shown in answer.shown]
    for number in range(len(answer.shown)):
        assert results.shown(job, number, 64).size == (64, 64)
    with pytest.raises(Refused, match="from 0"):
        results.shown(job, len(answer.shown), 64)


def test_pictures_are_drawn_in_one_style_for_all_samples(made, model):
    """The colors of depth are those of the range of both samples, as in the command line's picture."""
    from open4m.generate.drawing import pictures

    results, (job, _, _), (outcome, _, _) = made
    expected = pictures(model, "depth", [result.seen("depth") for result in outcome.results], size=64)[0]
    for number in (0, 1):
        found = results.picture(job, number, "depth", 64)
        assert np.array_equal(np.asarray(found), np.asarray(expected[number]))
    assert results.picture(job, 0, "boxes", 64).size == (64, 64)
    assert results.picture(job, 0, "caption", 64, "entropy").width == 64
    assert results.overview(job).width > 300


@pytest.mark.parametrize(
    ("number", "key", "size", "kind", "message"),
    [
        (2, "depth", 64, "value", "from 0"),
        (0, "normals", 64, "value", "generated were"),
        (0, "../../etc/passwd", 64, "value", "generated were"),
        (0, "depth", 5, "value", "16 to 1024"),
        (0, "depth", 10**9, "value", "16 to 1024"),
    ],
)
def test_pictures_of_what_is_not_there_are_refused(made, number, key, size, kind, message):
    results, (job, _, _), _ = made
    with pytest.raises(Refused, match=message):
        results.picture(job, number, key, size, kind)


def test_entropies_that_were_not_asked_for_are_not_there(made):
    results, (_, job, _), _ = made
    with pytest.raises(Refused, match="no entropies"):
        results.picture(job, 1, "depth", 64, "entropy")
    with pytest.raises(Refused, match="no entropies"):
        results.picture(job, 0, "depth", 64, "entropy")


def test_files_are_those_of_the_modality(made):
    results, (job, _, _), (outcome, _, _) = made
    assert results.file(job, 1, "caption") == ("caption.txt", outcome.results[1]["caption"].encode())
    name, data = results.file(job, 0, "semseg")
    assert name == "semseg.semseg.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), outcome.results[0]["semseg"])


def test_a_record_replays_to_the_token(made, model, tmp_path):
    results, jobs, _ = made
    for number, job in enumerate(jobs):
        path = tmp_path / f"{number}.json"
        path.write_bytes(results.record(job))
        found = record.read(path)
        assert record.differences(found, found.request.run(model).results) == []
        assert found.request.fingerprint == model.fingerprint


def test_an_archive_is_the_folder_of_the_command_line(made, model):
    results, (job, _, _), _ = made
    with zipfile.ZipFile(io.BytesIO(results.archive(job))) as archive:
        names = set(archive.namelist())
    command = results.answer(job).recipe.command
    assert command.startswith(
        "open4m generate --input=given_rgb.png --to depth semseg caption boxes --samples 2 --seed 1"
    )
    assert {
        "given_rgb.png",
        "grid.png",
        "result.json",
        "caption_1.txt",
        "depth_view_2.png",
        "boxes_entropy_1.png",
    } <= names


def test_whoever_was_given_a_result_has_collected_it(made):
    results, (job, _, _), _ = made
    job.collected = False
    results.answer(job)
    assert job.collected
    assert len(results_of(job)) == 2
    assert module.RECORD in results.answer(job).recipe.replay
