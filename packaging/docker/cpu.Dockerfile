# edge-llava on the CPU of any x86-64 or aarch64 computer.
#   docker build -f packaging/docker/cpu.Dockerfile -t edge-llava .
#   docker run --rm edge-llava chat demo:1 -p "What colour is the square?"
#   docker run --rm -v edge-llava:/data -p 127.0.0.1:8080:8080 -e EDGE_LLAVA_MODEL=demo edge-llava     # prints a key
# With a directory in place of the volume, which must be yours: --user "$(id -u)" -v ~/edge-llava:/data
# On x86-64 the image needs AVX2. For the building computer alone, --build-arg CMAKE_ARGS=-DGGML_NATIVE=on is faster.
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/edge-llava
COPY constraints.txt /src/
ARG CMAKE_ARGS=-DGGML_NATIVE=off
# a layer of its own: it takes minutes, and changes only with constraints.txt
RUN /opt/edge-llava/bin/pip install --no-cache-dir --constraint /src/constraints.txt llama-cpp-python
COPY pyproject.toml README.md LICENSE /src/
COPY edge_llava /src/edge_llava
COPY converters /src/converters
COPY runtime /src/runtime
RUN /opt/edge-llava/bin/pip install --no-cache-dir --constraint /src/constraints.txt '/src[cpu,serve,heic]'

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home edge-llava && install -d -o edge-llava /data
COPY --from=build /opt/edge-llava /opt/edge-llava
ENV PATH=/opt/edge-llava/bin:$PATH EDGE_LLAVA_HOME=/data
USER 10001
VOLUME /data
EXPOSE 8080
# of the default command; other commands end before it matters
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8080, timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["edge-llava"]
CMD ["serve", "--host", "0.0.0.0"]
