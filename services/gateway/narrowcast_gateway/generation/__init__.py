"""Text from models: chat completions as OpenAI has them, and the RIS's report call."""
