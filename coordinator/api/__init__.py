"""The HTTP side: OpenAI's dialect in, requests for the pipeline out."""
