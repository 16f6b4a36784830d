"""An OpenAI-compatible HTTP server over one bundle. Starlette, uvicorn, and the runtime."""
