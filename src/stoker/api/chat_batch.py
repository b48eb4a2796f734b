"""vLLM's batch of chats: a chat request with a list of conversations in `messages`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from stoker.api.openai import ChatCompletionRequest, ChatFields, ChatMessage
from stoker.errors import InvalidRequest

MAX_CONVERSATIONS = 1024


class ChatBatchRequest(ChatFields):
    """Conversations that are answered alike, each by a choice of its own."""

    messages: Annotated[
        list[Annotated[list[ChatMessage], Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_CONVERSATIONS),
    ]

    @model_validator(mode="after")
    def _check_batch(self) -> ChatBatchRequest:
        if self.stream:
            raise InvalidRequest("A batch cannot be streamed; leave 'stream' out.", param="stream")
        if self.n not in (None, 1):
            raise InvalidRequest("'n' must be 1: each conversation has one choice.", param="n")
        if self.prompt_logprobs is not None:
            raise InvalidRequest(
                "'prompt_logprobs' has no place in the answer to a batch.", param="prompt_logprobs"
            )
        return self

    def conversation(self, index: int) -> ChatCompletionRequest:
        """The request that asks for one of the conversations alone."""
        fields = {name: getattr(self, name) for name in ChatFields.model_fields}
        return ChatCompletionRequest.model_validate({**fields, "messages": self.messages[index]})
