"""LangChain's standard integration tests for chat models, through ChatOpenAI.

Run by `test_langchain.py` with the pytest of an environment that has langchain-tests;
`STOKER_ADDRESS` names the server.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestThroughChatOpenAI(ChatModelIntegrationTests):  # type: ignore[misc]  # not installed here
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        found: type[BaseChatModel] = ChatOpenAI
        return found

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "model",
            "base_url": f"{os.environ['STOKER_ADDRESS']}/v1",
            "api_key": "none",
            "stream_usage": True,
            "max_tokens": 400,
            "temperature": 0.7,
            "seed": 1,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "other"

    # What follows needs a better model than the default one, with 135 million parameters: the
    # server constrains what is asked for by a schema, but whether to call a tool at all, what to
    # write where any JSON is allowed and how to copy Japanese are for the model.

    @pytest.mark.xfail(reason="the model describes the weather and calls no tool")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason="asked for any JSON, the model does not keep to two keys")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="the model does not copy Japanese")
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)
