# difffuse in a container, on the CPU; nothing in the tests needs it.
#
#   docker build -t difffuse .
#   docker run --rm -v "$PWD":/work difffuse detect path/to/case --model demo --output results
#   docker run --rm -p 7860:7860 -e DIFFFUSE_APP_AUTH=name:password difffuse app --host 0.0.0.0
#
# PIP_FLAGS passes options to pip, such as --index-url with PyTorch's index of CPU builds, which are much smaller.
FROM python:3.12-slim

ARG PIP_FLAGS=""
ARG EXTRAS="preprocess,app,dicom"

WORKDIR /package
COPY setup.py pyproject.toml README.md constraints.txt ./
COPY src src
RUN pip install --no-cache-dir ${PIP_FLAGS} -c constraints.txt ".[${EXTRAS}]"

RUN useradd --create-home difffuse
USER difffuse
WORKDIR /work
ENTRYPOINT ["difffuse"]
