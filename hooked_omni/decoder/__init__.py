"""The decoder of an audio-visual LLM, with a hook point at every step."""
