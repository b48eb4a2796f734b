"""Tool calls: from the text a model writes to calls, as it comes.

`formats` has a parser for each way in which models write calls, on the machinery in `parser`;
`choice` finds the one a chat template asks for.
"""

from stoker.api.tool_calls.choice import FORMATS, ToolFormat, format_of_template
from stoker.api.tool_calls.deltas import Content, Delta, Reasoning, ToolCall, merge
from stoker.api.tool_calls.parser import ToolCallParser

__all__ = [
    "FORMATS",
    "Content",
    "Delta",
    "Reasoning",
    "ToolCall",
    "ToolCallParser",
    "ToolFormat",
    "format_of_template",
    "merge",
]
