"""Layers on the GPU, and what runs at once there: rules, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ggufkit.core import machine, process
from ggufkit.core.errors import DeviceMemoryError, ToolError
from ggufkit.core.failures import explain
from ggufkit.core.hashing import sha256_file
from ggufkit.core.process import ToolOutput
from ggufkit.core.records import GgufFile, Measurement, Toolchain
from ggufkit.llama import cuda, logs
from ggufkit.llama.cuda import Gpu
from ggufkit.llama.gguf import read_gguf, read_header
from ggufkit.measure import bench, perplexity, shares
from ggufkit.measure.evaluation import EvalOptions, Evaluation
from ggufkit.measure.logits import strategy
from ggufkit.measure.logits.strategy import Need, choose
from ggufkit.measure.measurements import load
from ggufkit.pipeline.resources import PlannedFile, whole_plan
from ggufkit.steps import offload
from ggufkit.steps.session import Session
from ggufkit.steps.step import Workspace
from ggufkit.texts.corpus import Corpus
from tests.fake_results import write_results

MB, GIB = 1_000_000, 1 << 30
ON_GPU = Need(20, 25 * MB, 60, 8000 * MB, 500 * MB, [300 * MB] * 3, 4000 * MB, True, gpus_free=[10_000 * MB])
GPUS = (
    Gpu(0, "GPU-aaaa-1", "NVIDIA H200", "90", 139 * GIB),
    Gpu(1, "GPU-bbbb-2", "NVIDIA H200", "90", 139 * GIB),
)
LOADED = """\
0.00.301.001 I llama_model_load_from_file_impl: using device CUDA0 (NVIDIA H200) (0000:19:00.0) - 142000 MiB free
0.00.438.949 I load_tensors: offloaded 25/25 layers to GPU
0.00.438.953 I load_tensors:        CUDA0 model buffer size =     0.00 MiB
0.00.675.109 I load_tensors: offloaded 20/25 layers to GPU
0.00.675.111 I load_tensors:   CPU_Mapped model buffer size =   137.94 MiB
0.00.675.113 I load_tensors:        CUDA0 model buffer size =   373.73 MiB
"""
OUT_OF_MEMORY = """\
0.01.100 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 373.73 MiB on device 0: cudaMalloc failed: out of memory
0.01.100.100 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 391879680
0.01.100.200 E llama_model_load: error loading model: unable to allocate CUDA0 buffer
"""


def ended(stderr: str, code: int = 0) -> ToolOutput:
    return ToolOutput(("llama-perplexity",), code, "", stderr, 1.0, None)


@pytest.fixture
def gpu_session(tmp_path: Path) -> Session:
    tools = Toolchain(tmp_path, "built", "0c1e57098bba", "cuda", "1", None)
    return Session(tools, Workspace(tmp_path / "work"), threads=16)


@pytest.fixture
def files(tmp_path: Path) -> list[GgufFile]:
    return [read_gguf(f) for f in sorted(write_results(tmp_path / "results").glob("*.gguf"))]


def test_the_device_is_called_by_its_name() -> None:
    placement = logs.parse_placement(ended(LOADED))
    assert (placement.layers_on_gpu, placement.n_layers, placement.device) == (20, 25, "NVIDIA H200")
    assert logs.parse_placement(ended("")).device is None
    with_amx = LOADED + "0.00.7 I load_tensors:          AMX model buffer size =   942.16 MiB\n"
    assert logs.parse_placement(ended(with_amx)).device == "NVIDIA H200"
    alone = "0.01.0 I load_tensors: offloaded 0/25 layers to GPU\n0.01.0 I load_tensors: AMX model buffer size = 9.5 MiB\n"
    assert logs.parse_placement(ended(alone)).device is None, "what holds the weights is the processor"


@pytest.mark.parametrize(
    "text",
    [
        *OUT_OF_MEMORY.splitlines(),
        "CUDA error: out of memory",
        "ggml_vulkan: ErrorOutOfDeviceMemory",
        "CUDA error: the resource allocation failed\n  in function cublas_handle at common.cuh:1234",
        "CUBLAS_STATUS_NOT_INITIALIZED",
    ],
)
def test_a_full_gpu_is_told_from_other_failures(text: str) -> None:
    error = explain(ended(text, 1), "evaluating x.gguf")
    assert isinstance(error, DeviceMemoryError)
    assert "--ngl" in str(error.hint)


def test_other_failures_are_no_full_gpu() -> None:
    assert isinstance(explain(ended("failed to allocate CPU buffer", 1), "x"), ToolError)
    assert isinstance(explain(ended("killed: out of memory", 1), "x"), ToolError)


def test_the_ladder_ends_on_the_cpu() -> None:
    assert offload.ladder(None, 24) == [18, 12, 6, 0]
    assert offload.ladder(None, 2) == [1, 0]
    assert offload.ladder(12, 24) == []


def test_no_layers_are_no_gpu(gpu_session: Session) -> None:
    """llama.cpp would still multiply large batches there."""
    options = " ".join(offload.compute(gpu_session, 0, 4).options())
    assert "-ngl 0 -dev none" in options
    assert "-b" not in options.split()
    assert "-dev" not in offload.compute(gpu_session, 6, 4).options()


def bench_row(ngl: int) -> str:
    row = {"avg_ts": 9.0, "stddev_ts": 0.1, "backends": "CUDA", "gpu_info": "NVIDIA H200", "n_threads": 4}
    return "\n".join(
        json.dumps(row | {"n_prompt": p, "n_gen": 128 - p, "n_gpu_layers": ngl, "cpu_info": "A CPU"})
        for p in (128, 0)
    )


def test_a_full_gpu_is_timed_with_fewer_layers(
    gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama-bench says no more than that the model was not loaded."""
    base = next(f for f in files if f.type == "F16")
    monkeypatch.setattr(offload, "ladder", lambda ngl, _: [] if ngl is not None else [18, 0])
    fit, tried = {0}, []

    def run(argv: Sequence[str], **_: object) -> ToolOutput:
        ngl = int(argv[argv.index("-ngl") + 1]) if "-ngl" in argv else -1
        tried.append(ngl)
        if ngl in fit:
            return ToolOutput(tuple(argv), 0, bench_row(ngl), "", 1.0, None)
        return ToolOutput(tuple(argv), 1, "", "main: error: failed to load model 'x.gguf'", 1.0, None)

    monkeypatch.setattr(process, "run", run)
    gpu_session.workspace.measurements.mkdir(parents=True)
    where = [(m.conditions.backend, m.conditions.device, m.conditions.ngl) for m in timed(base, gpu_session)]
    assert set(where) == {("cpu", "A CPU", None)}, "what no GPU holds is not said to have run on one"
    assert tried == [-1, 18, 0]
    fit.add(18)
    where = [(m.conditions.backend, m.conditions.device, m.conditions.ngl) for m in timed(base, gpu_session)]
    assert set(where) == {("cuda", "NVIDIA H200", 18)}
    fit.clear()
    with pytest.raises(ToolError, match="failed to load model"):
        timed(base, gpu_session)


def timed(base: GgufFile, session: Session) -> tuple[Measurement, ...]:
    made = bench.bench(
        replace(base, sha256=sha256_file(base.path)), bench.BenchOptions(), replace(session, force=True)
    )
    return tuple(load(made.path))


def test_a_batch_that_could_not_be_computed_is_a_failure() -> None:
    """llama-perplexity says so, and ends with 0."""
    stopped = ended("0.01.100.100 E kl_divergence : failed to decode\n" + OUT_OF_MEMORY)
    assert logs.ended_truly(stopped).returncode == 1
    assert logs.ended_truly(ended("perplexity: failed to decode\n")).returncode == 1
    assert logs.ended_truly(ended(LOADED)).returncode == 0


def test_fewer_layers_after_a_full_gpu(
    gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "ladder", lambda ngl, _: [] if ngl is not None else [18, 12, 0])
    tried: list[int | None] = []

    def run(ngl: int | None) -> str:
        tried.append(ngl)
        if ngl is None or ngl > 12:
            raise DeviceMemoryError("The GPU ran out of memory.")
        return "done"

    assert offload.with_fewer(run, None, files[0], gpu_session) == "done"
    assert tried == [None, 18, 12]
    with pytest.raises(DeviceMemoryError):
        offload.with_fewer(run, 99, files[0], gpu_session)


def test_what_was_given_before_the_gpu_was_full_is_given_once(
    gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "ladder", lambda ngl, _: [] if ngl is not None else [18, 0])
    left = ["a", "b", "c"]

    def run(ngl: int | None) -> Iterator[tuple[str, int | None]]:
        while left:
            if ngl is None and len(left) < 3:
                raise DeviceMemoryError("The GPU ran out of memory.")
            yield left.pop(0), ngl

    assert list(offload.each_with_fewer(run, None, files[0], gpu_session)) == [("a", None), ("b", 18), ("c", 18)]


def test_a_full_gpu_sends_torch_to_the_cpu(gpu_session: Session) -> None:
    tried: list[str] = []

    def run(device: str) -> str:
        tried.append(device)
        if device != "cpu":
            raise DeviceMemoryError("The GPU's memory ran out while refining.")
        return "done"

    assert offload.else_on_cpu(run, "auto", gpu_session) == "done"
    with pytest.raises(DeviceMemoryError):
        offload.else_on_cpu(run, "cuda", gpu_session)
    assert tried == ["auto", "cpu", "cuda"]


def test_pipes_that_memory_does_not_hold_name_the_way_out() -> None:
    tight = replace(ON_GPU, gpus_free=(), scratch=100 * MB, ram_free=600 * MB)
    assert "--scratch-limit 1.4GiB" in choose(tight).why
    assert "--scratch-limit" not in choose(replace(tight, ram_free=900 * MB)).why


def test_what_gpus_hold_is_not_asked_of_the_machine(
    gpu_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: GPUS)
    assert offload.usable(gpu_session) == 2 * int(0.8 * 139 * GIB)
    file = PlannedFile("m.gguf", "plain", "Q8_0", 70 * GIB, 8.5, 8.5, 0, {}, 75 * GIB)
    for on_gpus, needed in ((0, 75 * GIB), (60 * GIB, 15 * GIB), (100 * GIB, 0)):
        assert whole_plan([file], tmp_path, 0, 0, on_gpus, evaluate=True).ram_needed == needed


def test_on_a_gpu_files_share_one_base_pass_even_if_a_file_would_fit() -> None:
    chosen = choose(ON_GPU)
    assert (chosen.name, chosen.at_once) == (strategy.FAN_OUT, 3)
    assert choose(replace(ON_GPU, gpus_free=[1500 * MB])).at_once == 2
    assert choose(replace(ON_GPU, gpus_free=[0])).name == strategy.FILE
    assert choose(replace(ON_GPU, pipes=False)).name == strategy.FILE
    assert choose(ON_GPU, strategy.FILE).name == strategy.FILE


def test_what_a_gpu_holds_takes_little_of_the_machine() -> None:
    large = replace(ON_GPU, ram_base=15_000 * MB, ram_files=[8_000 * MB] * 3, gpus_free=[139_000 * MB])
    assert large.ram_free < 15_000 * MB
    assert choose(replace(large, ram_beside=500 * MB)).at_once == 3
    assert choose(replace(large, ram_beside=1_200 * MB)).at_once == 2


def test_each_process_has_one_gpu_that_holds_it() -> None:
    assert offload.place([50, 40, 30], [100, 100]) == [0, 1, 1]
    assert offload.place([30, 70, 30], [100, 100]) == [1, 0, 1]
    assert offload.place([60, 60, 60], [100, 100]) is None, "in sum they would fit"
    assert offload.place([90], [100, 100]) is None, "some is left to what nobody counts"
    assert offload.place([1], []) is None
    two = replace(ON_GPU, ram_base=500 * MB, ram_files=[300 * MB] * 3, gpus_free=[800 * MB] * 2)
    assert choose(two).at_once == 2, "640 MB each: the base on one, two files on the other"
    assert choose(replace(two, gpus_free=[500 * MB] * 2)).name == strategy.FILE, "no GPU holds the base"


def test_slots(gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch) -> None:
    def dealt(*gpus: Gpu) -> list[tuple[int, str | None]]:
        monkeypatch.setattr(cuda, "gpus", lambda: gpus)
        return [(s.threads, s.gpu) for s in shares.slots(files[:4], 512, gpu_session)]

    monkeypatch.setattr(machine, "free_memory", lambda: 64 * GIB)
    assert dealt(GPUS[0]) == [(4, None)] * 4  # four files share it
    assert dealt(replace(GPUS[0], memory_free=1 << 20)) == [(16, None)]
    assert dealt(*GPUS) == [(4, "GPU-aaaa-1"), (4, "GPU-bbbb-2"), (4, "GPU-aaaa-1"), (4, "GPU-bbbb-2")]
    assert dealt() == [(16, None)]
    monkeypatch.setattr(machine, "free_memory", lambda: 3 * GIB)
    assert dealt(*GPUS) == [(8, "GPU-aaaa-1"), (8, "GPU-bbbb-2")], "of its own memory the machine has little"
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 20)
    assert dealt(*GPUS) == [(16, "GPU-aaaa-1")]
    monkeypatch.setattr(machine, "free_memory", lambda: 64 * GIB)
    assert dealt(replace(GPUS[0], memory_free=1 << 20), GPUS[1]) == [(4, "GPU-bbbb-2")] * 4


def test_what_no_gpu_holds_gets_all_of_them(
    gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {file.path: 150 * GIB if file.type == "F16" else 40 * GIB for file in files}
    monkeypatch.setattr(cuda, "gpus", lambda: GPUS)
    monkeypatch.setattr(shares, "memory_needed", lambda file, _: sizes[file.path])
    ran: list[tuple[str, str | None]] = []

    def measure(file: GgufFile, *rest: object) -> str:
        share = rest[-1] if len(rest) > 1 else None
        ran.append((file.type, share.gpu if isinstance(share, shares.Share) else None))
        return file.type

    monkeypatch.setattr(perplexity, "measure", measure)
    corpus = Corpus(files[0].path, "0" * 64, 1000, "text")
    made = perplexity.measure_all(files, Evaluation(corpus, EvalOptions(), gpu_session))
    assert list(map(str, made)) == [file.type for file in files]
    assert ran[0] == ("F16", None)
    assert {gpu for _, gpu in ran[1:]} == {"GPU-aaaa-1", "GPU-bbbb-2"}


def test_processes_are_dealt_out_over_gpus(
    gpu_session: Session, files: list[GgufFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    four = [*files, *files][:4]
    monkeypatch.setattr(cuda, "gpus", lambda: GPUS)
    dealt = shares.side_by_side(four, 512, gpu_session)
    assert sorted(str(s.gpu) for s in dealt) == ["GPU-aaaa-1"] * 2 + ["GPU-bbbb-2"] * 2
    assert dealt[0].environment == {"CUDA_VISIBLE_DEVICES": dealt[0].gpu}
    monkeypatch.setattr(cuda, "gpus", lambda: GPUS[:1])
    assert {s.gpu for s in shares.side_by_side(four, 512, gpu_session)} == {None}
    monkeypatch.setattr(cuda, "gpus", lambda: [replace(g, memory_free=1 << 20) for g in GPUS])
    assert {s.gpu for s in shares.side_by_side(four, 512, gpu_session)} == {None}, "all see all GPUs"


def test_the_log_of_a_failed_try_is_kept(gpu_session: Session, files: list[GgufFile]) -> None:
    log = gpu_session.workspace.log("perplexity-x")
    log.parent.mkdir(parents=True)

    def run(ngl: int | None) -> str:
        log.write_text(f"with {ngl}")
        if ngl is None:
            raise DeviceMemoryError("The GPU ran out of memory.", log=log)
        return "done"

    assert offload.with_fewer(run, None, files[0], gpu_session) == "done"
    kept = log.with_name("perplexity-x-out-of-memory-all.log")
    fewer = offload.ladder(None, read_header(files[0].path).hparam("block_count"))[0]
    assert (kept.read_text(), log.read_text()) == ("with None", f"with {fewer}")


def test_batches_on_a_gpu(gpu_session: Session) -> None:
    assert "-b 1024 -ub 1024" in " ".join(offload.compute(gpu_session, None, 4).options())
    longer = offload.compute(gpu_session, None, 4, n_ctx=2048).options()
    assert "-b" not in longer
    assert longer[-2:] == ["-ub", "1024"]
    assert "-ub" not in offload.compute(gpu_session, 0, 4).options(), "without layers on it, it takes no part"
    assert EvalOptions().params(gpu_session)["ubatch"] == 1024
    assert "ubatch" not in EvalOptions(ngl=0).params(gpu_session)
    cpu = replace(gpu_session, tools=replace(gpu_session.tools, backend="cpu"))
    assert "-b" not in offload.compute(cpu, None, 4).options()
    assert "ubatch" not in EvalOptions().params(cpu)


def test_how_threads_wait_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert offload.environment() == {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert offload.environment() == {}
