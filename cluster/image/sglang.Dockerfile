# The pool and, in an environment of its own, sglang: their pins never meet.
#
#     docker build -f cluster/image/sglang.Dockerfile -t polar-ray:0.1.0-sglang .
#
# The engine is told where it is: engine.type=sglang engine.python=/opt/sglang/bin/python.
ARG BASE=polar-ray:0.1.0-cuda
# hadolint ignore=DL3006
FROM ${BASE}
ARG SGLANG=0.5.23
USER 0:0
RUN python3 -m venv /opt/sglang \
    && /opt/sglang/bin/pip install --no-cache-dir "sglang==${SGLANG}"
USER 1000:1000
