# edge-llava on NVIDIA GPUs, with NVIDIA's container toolkit; CUDA 13, drivers 580 and newer. It was never built.
#   docker build -f packaging/docker/cuda.Dockerfile -t edge-llava:cuda .
#   docker run --rm --gpus all edge-llava:cuda doctor
#   docker run --rm --gpus all -v edge-llava:/data -p 127.0.0.1:8080:8080 -e EDGE_LLAVA_MODEL=demo edge-llava:cuda
# Older drivers:     --build-arg CUDA=12.6.3 --build-arg ARCHITECTURES="75;80;86;89;90" --build-arg ONNX=cuda12
# Jetson, JetPack 6: --build-arg CUDA=12.6.3 --build-arg ARCHITECTURES=87 --build-arg UBUNTU=22.04
# Jetson, JetPack 7: --build-arg ARCHITECTURES="87;110"
# On Jetsons, images are encoded on the CPU: build there, with --build-arg CPU=-DGGML_NATIVE=on; `docker run --runtime nvidia`
ARG CUDA=13.0.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/edge-llava
COPY constraints.txt /src/
ARG ARCHITECTURES="75;80;86;89;90;120"
ARG CPU=-DGGML_NATIVE=off
ENV CUDACXX=/usr/local/cuda/bin/nvcc
# a layer of its own: it takes many minutes, and changes only with constraints.txt; the driver's library is not there yet
RUN CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${ARCHITECTURES} ${CPU} -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined" \
    /opt/edge-llava/bin/pip install --no-cache-dir --constraint /src/constraints.txt llama-cpp-python
COPY pyproject.toml README.md LICENSE /src/
COPY edge_llava /src/edge_llava
COPY converters /src/converters
COPY runtime /src/runtime
ARG ONNX=cuda
RUN /opt/edge-llava/bin/pip install --no-cache-dir --constraint /src/constraints.txt "/src[${ONNX},serve,heic]"

FROM nvidia/cuda:${CUDA}-runtime-ubuntu${UBUNTU}
RUN apt-get update && apt-get install -y --no-install-recommends python3 libgomp1 && rm -rf /var/lib/apt/lists/* \
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
