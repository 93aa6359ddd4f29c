"""What reads images for a model: whose it is, where it is found; and what tells that an image changes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ggufkit.core.errors import GgufError, InputError, UsageError
from ggufkit.core.manifest import SCHEMA, write_manifest
from ggufkit.core.progress import Listener, SilentReporter
from ggufkit.core.records import Checkpoint, Json, Manifest
from ggufkit.llama import launcher, server_argv
from ggufkit.llama.argv import Compute
from ggufkit.llama.gguf import GgufHeader, read_gguf
from ggufkit.llama.mmproj import Projector, find_beside, of_model, read_projector, require_belongs
from ggufkit.llama.server_argv import Beside, Listening
from ggufkit.modelfile.grammar import Modelfile, parse, write
from ggufkit.pipeline import senses
from ggufkit.publish import models
from ggufkit.report import projectors
from ggufkit.serving import deploy, sight
from ggufkit.serving.asking import Failed
from ggufkit.serving.endpoint import Endpoint
from ggufkit.serving.room import Cache
from ggufkit.serving.server import Plan
from ggufkit.steps import mmproj
from ggufkit.steps.convert import ConvertOptions
from ggufkit.steps.session import Session
from tests import tiny, tiny_vision

SMOL = Projector(Path("mmproj-smol-F16.gguf"), "idefics3", frozenset({576}), sees=True, hears=False)


def model(
    architecture: str = "llama", width: int = 576, tokens: Sequence[str] = ("<fake_token_around_image>",)
) -> GgufHeader:
    said: dict[str, Json] = {
        "general.architecture": architecture,
        f"{architecture}.embedding_length": width,
        "tokenizer.ggml.tokens": [*tokens],
    }
    return GgufHeader(Path("smol-Q4_K_M.gguf"), 3, said, (), 0, 32, 1)


def test_a_projector_belongs_to_a_model_that_can_read_it() -> None:
    require_belongs(SMOL, model())
    require_belongs(replace(SMOL, kind="unheard-of"), model(tokens=()))
    require_belongs(replace(SMOL, widths=frozenset({576, 1024})), model())  # of an old converter
    qwen = replace(SMOL, kind="qwen2.5vl_merger")
    require_belongs(qwen, model("qwen2vl", tokens=["<|vision_start|>"]))
    wrong = (
        (SMOL, model(width=960), "of 576 numbers are not of the 960"),
        (SMOL, model(tokens=["<image>"]), "<fake_token_around_image>"),
        (qwen, model("qwen2", tokens=["<|vision_start|>"]), "belongs to qwen2vl, and the model is qwen2"),
        (replace(SMOL, widths=frozenset({1, 2})), model(), "its embeddings are not of the 576"),
    )
    for projector, other, why in wrong:
        with pytest.raises(InputError, match=r"is of another model than smol-Q4_K_M\.gguf") as raised:
            require_belongs(projector, other)
        assert why in raised.value.message
        assert "--no-mmproj" in str(raised.value.hint)


def test_what_a_projector_says_of_itself(tmp_path: Path) -> None:
    made = read_projector(tiny_vision.write_mmproj(tmp_path / "mmproj-a-F16.gguf", "gemma3", 64))
    assert (made.kind, made.widths, made.reads) == ("gemma3", frozenset({64}), "images")
    assert replace(made, hears=True).reads == "images and sound"
    with pytest.raises(GgufError, match="is no model, but the part of one that reads images"):
        read_gguf(made.path)
    with pytest.raises(GgufError, match="is no mmproj"):
        read_projector(tiny.write_parrot(tmp_path / "parrot.gguf", "hm", ""))


def test_it_is_found_beside_its_model_by_name(tmp_path: Path) -> None:
    def there(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_bytes(b"." * (2 if "F16" in name else 1))

    def found(name: str) -> str:
        beside = find_beside(tmp_path / name)
        return "" if beside is None else beside.name

    assert found("smol-Q4_K_M.gguf") == ""
    there("mmproj-other-F16.gguf")
    assert found("smol-Q4_K_M.gguf") == ""
    there("mmproj-model-f16.gguf")
    assert found("smol-Q4_K_M.gguf") == "mmproj-model-f16.gguf"
    there("mmproj-smol-Q8_0.gguf", "mmproj-smol-F16.gguf")
    assert found("smol-Q4_K_M.gguf") == found("smol-awq-gptq-Q4_K_M.gguf") == "mmproj-smol-F16.gguf"
    there("mmproj-smol-2-Q8_0.gguf")
    assert found("smol-2-Q4_K_M.gguf") == "mmproj-smol-2-Q8_0.gguf"
    assert found("smolder-Q4_K_M.gguf") == "mmproj-model-f16.gguf"


def test_one_that_is_not_wanted_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "mmproj-smol-F16.gguf").write_bytes(b"no GGUF")
    assert of_model(tmp_path / "smol-Q8_0.gguf", None, alone=True) is None
    with pytest.raises(GgufError, match="is not a GGUF"):
        of_model(tmp_path / "smol-Q8_0.gguf", None)
    with pytest.raises(UsageError, match="cannot be both"):
        of_model(tmp_path / "smol-Q8_0.gguf", tmp_path / "mmproj-smol-F16.gguf", alone=True)


def test_the_server_and_a_modelfile_have_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listening = Listening(host="127.0.0.1", port=1, name="m", n_ctx=64, kv_type="f16", slots=1)
    argv = server_argv.serve(Path("server"), Path("m.gguf"), listening, Compute(), Beside(Path("mm.gguf")))
    assert argv[argv.index("--mmproj") + 1] == "mm.gguf"
    assert "--mmproj" not in server_argv.serve(Path("server"), Path("m.gguf"), listening, Compute())
    endpoint, cache = Endpoint("127.0.0.1", 1, "m"), Cache(64, "f16", 0)
    plan = Plan(Path("s"), Path("m.gguf"), endpoint, listening, cache, 1, "cpu", Beside(Path("mm.gguf")))
    assert f"--mmproj {tmp_path / 'mm.gguf'}" in deploy.systemd(plan, None)
    text = write(Modelfile("./m.gguf", projector="./mm.gguf", template="{{ .Prompt }}"))
    assert "FROM ./m.gguf\nFROM ./mm.gguf\n" in text
    assert [command.args for command in parse(text) if command.name == "model"] == ["./m.gguf", "./mm.gguf"]


def answering(*probabilities: float, n_tokens: int = 9) -> sight.Answer:
    """Answers one after the other, the first without an image."""
    given = iter(probabilities)

    def answer(content: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        top = [{"id": 1, "token": "a", "logprob": next(given)}, {"id": 2, "token": "b", "logprob": -2.0}]
        told = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
        return {**told, "usage": {"prompt_tokens": 5 + (n_tokens if len(content) > 1 else 0)}}

    return answer


def test_an_image_must_change_the_answer() -> None:
    seen = sight.look(answering(-1.0, -1.5, -1.5, -1.75))
    assert (seen.n_tokens, seen.difference) == (9, 0.25)
    assert str(seen) == "an image takes 9 tokens; another one changes log-probabilities by 0.25"
    assert sight.look(answering(-1.0, -1.5, -1.54, -1.75)).difference == 0.25
    for blind in ((-1.0, -1.5, -1.5, -1.5), (-1.0, -1.5, -1.6, -1.75), (-1.0, -1.5, -1.5, -1.5005)):
        with pytest.raises(Failed, match="another image changes log-probabilities by"):
            sight.look(answering(*blind))
    with pytest.raises(Failed, match="takes no tokens"):
        sight.look(answering(-1.0, -1.5, -1.5, -1.75, n_tokens=0))
    with pytest.raises(Failed, match="no log-probabilities"):
        sight.look(lambda content: {"choices": [{}], "usage": {"prompt_tokens": len(content)}})


def test_images_of_the_check_are_pictures() -> None:
    image = pytest.importorskip("PIL.Image")
    import base64
    import io

    for part in (sight._part(sight._RED), sight._part(sight._BLUE)):
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        with image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (224, 224))
            assert len(picture.getcolors()) == 2


def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path, path.name, str(path), None, "SmolVLMForConditionalGeneration", 1, 2)


def test_which_checkpoints_read_more_than_text(tmp_path: Path, session: Session) -> None:
    seeing, text = tiny_vision.write_smolvlm(tmp_path / "smol"), tiny.write_llama(tmp_path / "llama")
    assert [mmproj.reads_more(path) for path in (seeing, text)] == [True, False]
    assert senses.part_of(checkpoint(seeing), "smol", ConvertOptions(mmproj="none"), session) is None
    assert senses.part_of(checkpoint(text), "llama", ConvertOptions(), session) is None
    with pytest.raises(InputError, match="reads neither images nor sound"):
        senses.part_of(checkpoint(text), "llama", ConvertOptions(mmproj="q8_0"), session)
    for file in ("model.safetensors",):  # its tensors of images were lost, its config.json was not
        (seeing / file).write_bytes((text / file).read_bytes())
    assert not mmproj.reads_more(seeing)
    gguf = read_gguf(tiny.write_parrot(tmp_path / "parrot.gguf", "hm", ""))
    assert senses.part_of(gguf, "parrot", ConvertOptions(), session) is None
    with pytest.raises(InputError, match="is a GGUF already"):
        senses.part_of(gguf, "parrot", ConvertOptions(mmproj="f16"), session)


def test_what_nobody_asked_for_is_left_out_where_llama_cpp_cannot_load_it(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmproj, "make", Mock(side_effect=GgufError("llama.cpp cannot load it.")))
    told = Listener(SilentReporter())
    part = senses.Part(checkpoint(tmp_path), "f16", tmp_path / "mmproj-m-F16.gguf", 1, is_asked=False)
    assert part.make(tmp_path / "m.gguf", replace(session, reporter=told)) is None
    assert told.warnings == (f"{tmp_path.name} is made for text alone: llama.cpp cannot load it.",)
    with pytest.raises(GgufError, match="cannot load it"):
        replace(part, is_asked=True).make(tmp_path / "m.gguf", session)


def noted(file: Path, step: str, **notes: Json) -> Path:
    from ggufkit.core.hashing import sha256_file

    output: dict[str, Json] = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
    made = "2026-01-01T00:00:00+00:00"
    write_manifest(file, Manifest(SCHEMA, step, 1, {}, {}, None, [], output, made, 1.0, notes))
    return file


def test_it_is_told_of_beside_the_results_and_published_with_its_model(tmp_path: Path) -> None:
    model_file = noted(
        tiny.write_parrot(tmp_path / "smol-F16.gguf", "hm", ""), "convert", name="smol", variant="plain"
    )
    own = tiny_vision.write_mmproj(tmp_path / "mmproj-smol-F16.gguf", "mlp", 64)
    noted(own, "mmproj", of="smol", reads="images", image_tokens=9, image_difference=0.25)
    [told] = projectors.collect(tmp_path)
    assert told.sentence.startswith("mmproj-smol-F16.gguf (")
    assert told.sentence.endswith(
        "reads images for all of these files: an image takes 9 tokens; another one changes log-probabilities by 0.25."
    )
    foreign = noted(tiny_vision.write_mmproj(tmp_path / "mmproj-x-F16.gguf", "mlp", 96), "mmproj", reads="images")
    assert projectors.collect(tmp_path)[1].sentence.endswith("reads images for all of these files.")
    complete, left_out = models.find(tmp_path, SilentReporter())
    assert [(one.gguf, one.beside) for one in complete] == [(model_file, (own,))]
    assert left_out == [(foreign.name, "it is of another model than the files here")]


def test_the_converter_learns_what_transformers_calls_a_tower_now() -> None:
    class Converter:
        def map_tensor_name(self, name: str, try_suffixes: Sequence[str] = ()) -> str:
            if "vision_tower.vision_model." not in name:
                raise ValueError(f"Can not map tensor {name!r}")
            return f"{name}{''.join(try_suffixes)}"

    launcher.know_shorter_names(Converter)
    made = Converter()
    assert made.map_tensor_name("vision_tower.a", (".b",)) == "vision_tower.vision_model.a.b"
    assert made.map_tensor_name("x.vision_tower.vision_model.a") == "x.vision_tower.vision_model.a"
    with pytest.raises(ValueError, match="'other'"):
        made.map_tensor_name("other")
