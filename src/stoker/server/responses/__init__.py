"""`/v1/responses`: requests into conversations, answers into items and events, and what is kept."""
