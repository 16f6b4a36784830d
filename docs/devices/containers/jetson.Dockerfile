# edge-llava on JetPack 6 or 7: the language model on the GPU, images on the CPU.
#   docker build -f docs/devices/containers/jetson.Dockerfile -t edge-llava .
# JetPack 7 (Orin, Thor): --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg ARCHITECTURE="87;110"
ARG BASE=nvidia/cuda:12.6.3-devel-ubuntu22.04

FROM ${BASE} AS build
ARG ARCHITECTURE=87
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/edge-llava
ENV CUDACXX=/usr/local/cuda/bin/nvcc
# a layer of its own: it takes minutes, and changes only with its version
RUN CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${ARCHITECTURE}" \
    /opt/edge-llava/bin/pip install --no-cache-dir llama-cpp-python==0.3.36
COPY . /src
RUN /opt/edge-llava/bin/pip install --no-cache-dir '/src[cpu,serve]'

FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3 libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/edge-llava /opt/edge-llava
ENV PATH=/opt/edge-llava/bin:$PATH EDGE_LLAVA_HOME=/data
VOLUME /data
ENTRYPOINT ["edge-llava"]
CMD ["doctor"]
