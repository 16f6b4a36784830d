# edge-llava on any x86-64 or aarch64 computer, on the CPU.
#   docker build -f docs/devices/containers/cpu.Dockerfile -t edge-llava .
#   docker run --rm -it -v ~/edge-llava:/data -p 127.0.0.1:8080:8080 edge-llava serve --host 0.0.0.0
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/edge-llava
# llama.cpp is compiled for the CPU that builds the image; without GGML_NATIVE it runs on others, more slowly
RUN CMAKE_ARGS="-DGGML_NATIVE=off -DGGML_AVX2=on -DGGML_FMA=on -DGGML_F16C=on" \
    /opt/edge-llava/bin/pip install --no-cache-dir llama-cpp-python==0.3.36
COPY . /src
RUN /opt/edge-llava/bin/pip install --no-cache-dir '/src[cpu,serve]'

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/edge-llava /opt/edge-llava
ENV PATH=/opt/edge-llava/bin:$PATH EDGE_LLAVA_HOME=/data
VOLUME /data
ENTRYPOINT ["edge-llava"]
CMD ["doctor"]
