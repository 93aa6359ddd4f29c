"""A model as an endpoint that speaks OpenAI's protocol, through the toolchain's own llama-server."""
