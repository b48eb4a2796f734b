"""From a path to an engine that answers."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from stoker.engine.config import EngineConfig
from stoker.engine.factory import build_engine, plan_engine
from stoker.engine.kv_events import BlockStored, KVEvent
from stoker.engine.sampling_params import SamplingParams
from stoker.engine.stats import StepStats
from stoker.errors import InvalidRequest, MemoryPlanError, ModelCorrupt, ModelNotFound

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small random model with a tokenizer, as a Hugging Face directory."""
    directory = Path(shutil.copytree(GOLDEN / "text" / "bytelevel", tmp_path / "checkpoint"))
    for path in (GOLDEN / "llama3").iterdir():
        shutil.copy(path, directory)
    return directory


@pytest.mark.parametrize("runner", ["cpu", "reference"])
def test_an_engine_is_planned_loaded_and_answers(
    checkpoint: Path, runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[StepStats] = []
    events: list[list[KVEvent]] = []
    config = EngineConfig.from_mapping(
        {"runner": runner, "kv_cache_memory_bytes": 10**6, "max_num_seqs": 4}
    )
    with caplog.at_level(logging.INFO):
        loaded = build_engine(
            str(checkpoint),
            config,
            chat_template="{{ messages[0].content }}",
            kv_listener=events.append,
            step_listener=steps.append,
        )
    assert loaded.path == checkpoint
    assert loaded.engine.max_model_len == loaded.plan.max_model_len == 64
    assert loaded.engine.runner.cache == loaded.plan.cache
    assert loaded.template.render([{"role": "user", "content": "Hi"}]) == "Hi"
    assert [message.split()[0] for message in caplog.messages] == [
        *("weights", "keys", "activations", "together", "context")
    ]
    loaded.engine.submit("a", list(range(20)), SamplingParams(temperature=0, max_tokens=4))
    outputs = []
    while loaded.engine.has_unfinished:
        outputs += loaded.engine.step()
    assert len(outputs[-1].outputs[0].token_ids) == 4
    assert len(steps) == 4
    assert [[type(event) for event in step] for step in events] == [[BlockStored]]
    loaded.engine.close()


def test_both_runners_choose_the_same_tokens(checkpoint: Path) -> None:
    found = []
    for runner in ("cpu", "reference"):
        config = EngineConfig.from_mapping({"runner": runner, "kv_cache_memory_bytes": 10**6})
        engine = build_engine(str(checkpoint), config).engine
        engine.submit("a", [5, 9, 2, 40], SamplingParams(temperature=0, max_tokens=8))
        outputs = []
        while engine.has_unfinished:
            outputs += engine.step()
        found.append(outputs[-1].outputs[0].token_ids)
        engine.close()
    assert found[0] == found[1]


def test_planning_loads_nothing(checkpoint: Path) -> None:
    loaded, plan, path = plan_engine(str(checkpoint), EngineConfig())
    assert path == checkpoint
    assert plan.max_model_len == loaded.spec.max_position


def test_errors_name_what_is_wrong(checkpoint: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"block_size \(8\) must be 16 with the cpu runner"):
        build_engine(str(checkpoint), EngineConfig(block_size=8, kv_cache_memory_bytes=10**6))
    with pytest.raises(ModelNotFound, match="no model 'no such'"):
        build_engine("no such", EngineConfig())
    with pytest.raises(MemoryPlanError, match="--max-model-len"):
        build_engine(str(checkpoint), EngineConfig(max_model_len=65))
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors"):
        build_engine(str(checkpoint), EngineConfig())
