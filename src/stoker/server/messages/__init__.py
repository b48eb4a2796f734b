"""`/v1/messages`: requests into conversations, answers into content blocks and events."""
