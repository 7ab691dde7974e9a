"""Files in OpenAI's sense: training data that the user prepared."""
