"""AWQ on real models, with the real quantizers: proved equal, resumable, and better where it should be."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from numpy.typing import NDArray
from safetensors.torch import save_file

from ggufkit.awq import autoawq
from ggufkit.awq.apply import plan_folds, publishing, write_checkpoint
from ggufkit.awq.archs import folds_of
from ggufkit.awq.autoawq import scale_with_autoawq
from ggufkit.awq.compat import AutoAwqObjective
from ggufkit.awq.engine import AwqOptions, ScaledCheckpoint, WorkFiles, scale_checkpoint
from ggufkit.awq.native import search_scales
from ggufkit.awq.proof import prove, rewritten_layers
from ggufkit.awq.search import QuantizationScheme, Types
from ggufkit.core import process
from ggufkit.core.errors import Interrupted, TokenizerError, ToolError, UnsupportedArchitecture
from ggufkit.core.process import ToolOutput
from ggufkit.core.progress import SilentReporter
from ggufkit.core.records import Toolchain
from ggufkit.layers import Shards, StreamedModel
from ggufkit.llama import argv, logs, quants
from ggufkit.llama.argv import Compute, Excerpt, Quantization
from ggufkit.llama.gguf import read_header
from ggufkit.llama.libggml import LibGgml
from ggufkit.models.checkpoint import open_checkpoint
from ggufkit.steps.convert import ConvertOptions, convert, skeleton
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.calibration import Calibration, Sampling, draw, load_tokenizer, read_texts
from tests import tiny
from tests.integration.run_cli import fails
from tests.shared import CALIBRATION, LLAMA, QWEN2, WIKI_TEST, needs_shared

QUIET = SilentReporter()
MB = 1_000_000


def calibrate(model: Path, samples: int, length: int = 512, held_out: int = 2) -> Calibration:
    """A few samples of the shared calibration text."""
    texts = read_texts(CALIBRATION)
    return draw(texts, load_tokenizer(model), Sampling(samples, length=length, held_out=held_out))


def raw(command: list[str]) -> ToolOutput:
    """Run a raw tool to a good end."""
    output = process.run(command)
    assert output.returncode == 0, output.text[-2000:]
    return output


def types_of(base: Path, kind: str, tools: Toolchain) -> Types:
    """What llama-quantize will make of each tensor."""
    plan = logs.parse_quantize(raw(argv.quantize_plan(tools, Quantization(base, kind))))
    return {t.name: t.after for t in plan.tensors}


def to_gguf(checkpoint: Path, session: Session) -> Path:
    """The F16 GGUF of a checkpoint."""
    output = session.workspace.root / f"{checkpoint.name}-F16.gguf"
    convert(open_checkpoint(checkpoint, name="model"), output, ConvertOptions(), session)
    return output


def imatrix_of(gguf: Path, chunks: int, tools: Toolchain) -> Path:
    """The importance matrix of a GGUF on the shared calibration text."""
    made = gguf.with_suffix(".imatrix")
    raw(argv.imatrix(tools, gguf, made, Excerpt(CALIBRATION, 512, chunks), Compute("cpu", None, 2)))
    return made


def quantized(gguf: Path, kind: str, tools: Toolchain, imatrix: Path | None = None) -> Path:
    """A GGUF quantized to a type."""
    made = gguf.with_name(f"{gguf.stem}-{'imatrix-' if imatrix else ''}{kind}.gguf")
    raw(argv.quantize(tools, Quantization(gguf, kind, imatrix), made, 2))
    return made


def kld_of(gguf: Path, logits: Path, tools: Toolchain) -> tuple[float, float]:
    """Mean KL divergence of a GGUF from base logits, and its standard error."""
    for _ in range(3):  # the tool's last lines get lost at times
        text = logs.plain(raw(argv.divergence(tools, gguf, logits, 512, Compute("cpu", None, 2))).text)
        found = re.search(r"Mean\s+KLD:\s+([\d.]+) ±\s+([\d.]+)", text)
        if found:
            return float(found[1]), float(found[2])
    raise AssertionError(text[-2000:])


def scale(
    source: Path,
    schemes: list[QuantizationScheme],
    calibration: Calibration,
    tools: Toolchain,
    work: Path,
    **options: object,
) -> list[ScaledCheckpoint]:
    """Scale a checkpoint for some schemes."""
    return scale_checkpoint(
        source,
        [(scheme, work / f"scaled-{scheme.name}") for scheme in schemes],
        calibration,
        AwqOptions(**options),  # type: ignore[arg-type]
        WorkFiles(tools.dir, work / "state", work / "autoawq.log"),
        QUIET,
    )


def test_the_library_quantizes_as_the_tool_does(base: Path, tools: Toolchain) -> None:
    text = tiny.text_file(base.with_name("text.txt"))
    imatrix = base.with_name("imatrix.gguf")
    raw(argv.imatrix(tools, base, imatrix, Excerpt(text, 64, 4), Compute("cpu", None, 2)))
    for kind in ("Q4_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "IQ4_NL", "IQ4_XS"):
        compare_blocks(base, quantized(base, kind, tools), None, tools)
        compare_blocks(base, quantized(base, kind, tools, imatrix), imatrix, tools)


def test_which_types_ignore_a_matrix(tools: Toolchain) -> None:
    """What is made once, for plain and imatrix, is what the quantizers themselves make alike."""
    lib, random = LibGgml(tools.dir), np.random.default_rng(0)
    weights = random.standard_normal((4, 512)).astype(np.float32)
    importance = random.random(512).astype(np.float32) ** 4
    kinds = ("Q8_0", "MXFP4", "Q4_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
    made = {kind: [lib.quantize(weights, kind, given) for given in (None, importance)] for kind in kinds}
    assert [kind for kind, (plain, weighed) in made.items() if np.array_equal(plain, weighed)] == ["Q8_0", "MXFP4"]
    assert frozenset({"Q8_0", "MXFP4_MOE"}) == quants.WITHOUT_MATRIX


def compare_blocks(base: Path, made: Path, imatrix: Path | None, tools: Toolchain) -> None:
    """Require that the library gives the bytes of a file that llama-quantize made."""
    lib, compared = LibGgml(tools.dir), 0
    before = read_header(base).by_name
    for tensor in read_header(made).tensors:
        if tensor.name.startswith("blk.") and tensor.name.endswith(("_q.weight", "_down.weight", "_v.weight")):
            stored = before[tensor.name]
            n = stored.shape[0]
            weights = np.fromfile(base, np.float16, stored.n_elements, offset=stored.offset)
            rows = weights.reshape(-1, n).astype(np.float32)
            importance = importance_in(imatrix, tensor.name) if imatrix else None
            blocks = lib.quantize(rows, tensor.type, importance)
            wanted = np.fromfile(made, np.uint8, tensor.n_bytes, offset=tensor.offset)
            assert np.array_equal(blocks.reshape(-1), wanted), (made.name, tensor.name)
            assert np.array_equal(lib.rounded(rows, tensor.type, importance), dequantize(blocks, tensor.type))
            compared += 1
    assert compared == 6


def dequantize(blocks: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """Blocks as the `gguf` package reads them."""
    read: NDArray[np.float32] = gguf_dequantize(blocks, GGMLQuantizationType[kind])
    return read


def importance_in(imatrix: Path, name: str) -> NDArray[np.float32]:
    """E[x²] of a tensor's input, as an importance matrix holds it."""
    header = read_header(imatrix)
    sums, counts = (header.by_name[f"{name}.{part}"] for part in ("in_sum2", "counts"))
    values = np.fromfile(imatrix, np.float32, sums.n_elements, offset=sums.offset)
    count = np.fromfile(imatrix, np.float32, 1, offset=counts.offset)
    return np.asarray(values / count, np.float32)


def shorten(source: Path, out: Path, layers: int) -> Path:
    """The first layers of a checkpoint: a model of its own, with real weights."""
    out.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = layers
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shards = Shards(source)
    kept = [n for n in shards.tensors if not n.startswith("model.layers.") or int(n.split(".")[2]) < layers]
    save_file({n: shards.read(n).bfloat16() for n in kept}, out / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def three_layers(
    tools: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], tuple[Path, Path]]:
    """A model's first three layers and their GGUF without weights: made once a model, as conversions are slow."""
    session = Session(tools, Workspace(tmp_path_factory.mktemp("three-layers")))

    @functools.cache
    def make(model: Path) -> tuple[Path, Path]:
        source = shorten(model, session.workspace.root / model.name, 3)
        empty = source.with_name(f"{model.name}-empty.gguf")
        skeleton(open_checkpoint(source, name="model"), empty, ConvertOptions(), session)
        return source, empty

    return make


def plant_outliers(source: Path, out: Path) -> None:
    """The same function with outlier channels: a few of each fold carry 40 times more, their weights 40 times less."""
    model = StreamedModel(source, "cpu")
    generator = torch.Generator().manual_seed(3)
    scales = {}
    for index in range(model.n_layers):
        for fold in folds_of(model.architecture):
            name = model.prefix(index) + fold.source
            planted = torch.ones(model.shards.info(f"{name}.weight").shape[0])
            planted[torch.randperm(len(planted), generator=generator)[: len(planted) // 32]] = 1 / 40
            scales[name] = planted
    with publishing(source, out) as unfinished:
        rewrites = plan_folds(model, scales, torch.float32)
        write_checkpoint(source, unfinished, rewrites, QUIET, dtype=torch.float32)


@needs_shared
def test_planted_outliers_are_undone(session: Session) -> None:
    tools, work = session.tools, session.workspace.root
    planted = work / "planted"
    plant_outliers(shorten(LLAMA, work / "short", 2), planted)
    base = to_gguf(planted, session)
    logits = work / "logits.bin"
    raw(argv.base_logits(tools, base, logits, Excerpt(WIKI_TEST, 512, 6), Compute("cpu", None, 2)))
    types = types_of(base, "Q4_K_M", tools)
    schemes = [QuantizationScheme("awq", (types,)), QuantizationScheme("both", (types,), importance=True)]
    awq, both = scale(planted, schemes, calibrate(planted, 8, held_out=1), tools, work, threads=2)
    assert awq.proof.written.max_delta == awq.proof.folded.max_delta

    kld = {"plain": kld_of(quantized(base, "Q4_K_M", tools), logits, tools)}
    kld["awq"] = kld_of(quantized(to_gguf(awq.path, session), "Q4_K_M", tools), logits, tools)
    kld["imatrix"] = kld_of(quantized(base, "Q4_K_M", tools, imatrix_of(base, 16, tools)), logits, tools)
    scaled = to_gguf(both.path, session)
    kld["both"] = kld_of(quantized(scaled, "Q4_K_M", tools, imatrix_of(scaled, 16, tools)), logits, tools)
    print(kld)
    assert kld["plain"][0] > 5 * kld["awq"][0]
    assert kld["both"][0] <= kld["imatrix"][0] + kld["imatrix"][1]


_CHILD = """
import json, re, sys
from pathlib import Path
from ggufkit.awq.engine import AwqOptions, WorkFiles, scale_checkpoint
from ggufkit.awq.search import QuantizationScheme
from ggufkit.texts.calibration import Sampling, draw, load_tokenizer, read_texts
from ggufkit.core.progress import SilentReporter

source, text, out, types, library, samples = sys.argv[1:]
source, out = Path(source), Path(out)
calibration = draw(read_texts(Path(text)), load_tokenizer(source), Sampling(int(samples), held_out=1))
scheme = QuantizationScheme("awq", (json.loads(types),))
scaled = scale_checkpoint(
    source, [(scheme, out / "scaled")], calibration, AwqOptions(device="cpu"),
    WorkFiles(Path(library), out / "state", out / "log"), SilentReporter(),
)
# ru_maxrss would be that of the tests' own process, which this one was forked from.
# Pages of libraries, 80 to 120 MB, are counted as the system likes: with more or less of what lies beside them.
status = Path("/proc/self/status").read_text()
peak, libraries = (1024 * int(re.search(name + r":\\s+(\\d+) kB", status)[1]) for name in ("VmHWM", "RssFile"))
print(json.dumps({"peak": peak - libraries, "ratio": scaled[0].searched.mean_gain}))
"""


def child(source: Path, types: Types, tools: Toolchain, out: Path, samples: int) -> list[str]:
    """The command of a process that scales a checkpoint."""
    arguments = [source, CALIBRATION, out, json.dumps(types), tools.dir, samples]
    return [sys.executable, "-c", _CHILD, *map(str, arguments)]


@needs_shared
@pytest.mark.skipif(sys.platform != "linux", reason="the child reads its peak memory in /proc")
@pytest.mark.parametrize("model", [LLAMA, QWEN2], ids=lambda m: m.name)
def test_memory_is_one_layer_and_the_embeddings(
    model: Path, three_layers: Callable[[Path], tuple[Path, Path]], tmp_path: Path, tools: Toolchain
) -> None:
    source, empty = three_layers(model)
    run = raw(child(source, types_of(empty, "Q4_0", tools), tools, tmp_path, 4))
    stored = StreamedModel(source, "cpu").shards.tensors.values()
    layer = 4 * sum(t.n_elements for t in stored if t.name.startswith("model.layers.0."))
    embeddings = 4 * sum(t.n_elements for t in stored if t.name.startswith(("lm_head", "model.embed_tokens")))
    made = json.loads(run.stdout)
    assert made["peak"] <= layer + embeddings + 420 * MB  # 500 with the libraries
    assert made["ratio"] < 1


@needs_shared
def test_a_killed_run_goes_on_by_layer(
    three_layers: Callable[[Path], tuple[Path, Path]], tmp_path: Path, tools: Toolchain
) -> None:
    work = tmp_path
    source, empty = three_layers(LLAMA)
    command = child(source, types_of(empty, "Q8_0", tools), tools, work, 4)
    stop, first = threading.Event(), work / "state" / "layer-0.safetensors"

    def wait_for_a_layer() -> None:
        while not first.exists():
            threading.Event().wait(0.02)
        stop.set()

    threading.Thread(target=wait_for_a_layer, daemon=True).start()
    with pytest.raises(Interrupted):
        process.run(command, cancel=stop)
    done = {f.name: f.stat().st_mtime_ns for f in first.parent.glob("layer-*.safetensors")}
    kept = {}
    finished = threading.Event()

    def watch() -> None:
        while not finished.is_set():
            for name in done:
                if (first.parent / name).exists():
                    kept[name] = (first.parent / name).stat().st_mtime_ns
            threading.Event().wait(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    raw(command)
    finished.set()
    watcher.join()
    assert kept == done
    assert not (work / "state").exists()
    assert StreamedModel(work / "scaled", "cpu").n_layers == 3


def edit_config(path: Path, **changes: object) -> None:
    """Change settings of a checkpoint's config.json."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def other_tokenizer(path: Path) -> None:
    """Give a checkpoint the tokenizer of a larger vocabulary."""
    file = path / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 100_000, "content": "<|other|>"})
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: edit_config(path, quantization_config={"quant_method": "awq", "bits": 4}),
            "quantized already",
        ),
        (
            lambda path: edit_config(path, architectures=["GraniteForCausalLM"], model_type="granite"),
            "no fold table for Granite",
        ),
        (other_tokenizer, "another model's tokenizer"),
    ],
    ids=["quantized", "architecture", "tokenizer"],
)
@pytest.mark.usefixtures("tools")
def test_what_cannot_be_scaled_is_refused(
    tmp_path: Path, checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    text = tiny.text_file(tmp_path / "text.txt", lines=3000)
    out = tmp_path / "out"
    more = ("--calibration", text, "--calibration-samples", 2, "--out", out)
    assert message in fails(3, "awq", checkpoint, *more).replace("\n", " ")
    assert not out.exists()


def test_another_models_tokenizer_is_refused(tmp_path: Path, tools: Toolchain) -> None:
    source = tiny.write_llama(tmp_path / "tiny", width=64)
    calibration = draw(tiny.TEXT, load_tokenizer(source), Sampling(4, length=24, held_out=1))
    tiny.train_tokenizer(vocab_size=300).save(str(source / "tokenizer.json"))
    calibration.samples[0, 0] = 100_000
    with pytest.raises(TokenizerError):
        scale(source, [QuantizationScheme("awq", ({},))], calibration, tools, tmp_path)
    assert not (tmp_path / "scaled-awq").exists()


def test_float_types_leave_every_weight_as_it_is(tmp_path: Path, tools: Toolchain) -> None:
    source = tiny.write_llama(tmp_path / "tiny", width=64)
    calibration = draw(tiny.TEXT, load_tokenizer(source), Sampling(4, length=24, held_out=1))
    (made,) = scale(source, [QuantizationScheme("awq", ({},))], calibration, tools, tmp_path)
    assert (made.path / "model.safetensors").stat().st_size > 0
    before, after = (StreamedModel(p, "cpu").shards for p in (source, made.path))
    assert all(torch.equal(before.read(n), after.read(n)) for n in before.tensors)
    assert made.proof.written.max_delta == 0


@pytest.fixture(scope="session")
def autoawq_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AutoAWQ's environment, made on first use."""
    try:
        return autoawq.environment(tmp_path_factory.mktemp("autoawq") / "install.log", QUIET)
    except ToolError as error:
        pytest.skip(f"AutoAWQ's environment cannot be made: {error.message}")


@needs_shared
@pytest.mark.usefixtures("autoawq_python")
@pytest.mark.parametrize("model", [LLAMA, QWEN2], ids=lambda m: m.name)
def test_native_scales_are_those_of_autoawq(model: Path, tmp_path: Path) -> None:
    source = shorten(model, tmp_path / "short", 2)
    streamed, calibration = StreamedModel(source, "cpu"), calibrate(source, 2, 128)
    made = scale_with_autoawq(streamed, calibration, tmp_path / "autoawq", tmp_path / "log", QUIET)
    found = search_scales(streamed, calibration, AutoAwqObjective(), tmp_path / "state", QUIET)["awq"].scales
    assert len(found) == 3 * streamed.n_layers
    assert set(found) == set(made.scales)
    for name, scales in made.scales.items():
        assert torch.allclose(found[name], scales, rtol=1e-5, atol=0), name


@needs_shared
@pytest.mark.usefixtures("autoawq_python")
def test_the_autoawq_engine_leaves_the_function_as_it_was(tmp_path: Path, tools: Toolchain) -> None:
    source = shorten(QWEN2, tmp_path / "short", 2)
    (made,) = scale(
        source, [QuantizationScheme("awq", ())], calibrate(source, 4, 128), tools, tmp_path, engine="autoawq"
    )
    assert made.proof.holds
    assert made.proof.folded.max_delta > 0
    names = {f.name for f in made.path.iterdir()}
    assert names == {f.name for f in source.iterdir()}
    assert (made.path / "config.json").read_bytes() == (source / "config.json").read_bytes()
    before, after = (StreamedModel(p, "cpu").shards.tensors for p in (source, made.path))
    assert {n: (t.dtype, t.shape) for n, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}


@needs_shared
@pytest.mark.usefixtures("autoawq_python")
def test_without_its_backup_mended_autoawq_breaks_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "driver.py"
    driver = autoawq._DRIVER.read_text(encoding="utf-8")
    assert driver.count("def _compute_best_scale") == 1
    broken.write_text(driver.replace("def _compute_best_scale", "def _not_called"), encoding="utf-8")
    monkeypatch.setattr(autoawq, "_DRIVER", broken)
    source = shorten(LLAMA, tmp_path / "short", 2)
    model, calibration = StreamedModel(source, "cpu"), calibrate(source, 2, 64)
    made = scale_with_autoawq(model, calibration, tmp_path / "autoawq", tmp_path / "log", QUIET)
    with publishing(source, tmp_path / "scaled") as unfinished:
        write_checkpoint(source, unfinished, made.rewrites, QUIET, dtype=torch.float32)
        written = StreamedModel(unfinished, "cpu")
        with pytest.raises(ToolError, match="changed the function"):
            prove(model, rewritten_layers(model, made.rewrites), written, calibration.held_out, QUIET)


@pytest.mark.parametrize(
    ("architecture", "kv", "message"),
    [("Phi3ForCausalLM", 2, "breaks Phi-3"), ("Gemma3ForCausalLM", 2, "cannot scale Gemma3")],
)
def test_what_autoawq_breaks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, kv: int, message: str
) -> None:
    model = StreamedModel(tiny.write_llama(tmp_path / "tiny", width=64), "cpu")
    model.config.architectures = [architecture]
    with pytest.raises(UnsupportedArchitecture, match=message) as refused:
        autoawq.require_supported(model)
    assert "--awq-engine native" in (refused.value.hint or "")
