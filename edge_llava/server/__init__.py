"""An OpenAI-compatible HTTP server for one bundle, built on Starlette, uvicorn and the runtime."""
