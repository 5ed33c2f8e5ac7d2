# docker build -t anovl . && docker run --read-only --tmpfs /tmp -p 8000:8000 anovl        docs/serve.md

FROM python:3.12-slim AS build
ARG EXTRAS=serve,onnx,openvino
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN python -m venv --without-pip /opt/anovl
RUN python -m pip --python /opt/anovl/bin/python install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

FROM python:3.12-slim
LABEL org.opencontainers.image.title="anovl" \
      org.opencontainers.image.description="Scores images of things the model was never trained on for defects" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/anovl /opt/anovl
# All that is ever written: checkpoints and prompts of named classes. Mount a volume at these to keep them.
ENV PATH=/opt/anovl/bin:$PATH \
    HOME=/tmp \
    ANOVL_CACHE=/tmp/anovl \
    HF_HOME=/tmp/huggingface \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["anovl", "serve", "--host", "0.0.0.0"]
