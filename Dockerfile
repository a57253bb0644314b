# Spillway in an image that holds nothing else.
#
#   docker build -t spillway .                                     from source
#   make build && docker build -t spillway --target prebuilt .     from bin/spillway
#
# Both stages at the end start from "base", so that they differ only in where the
# binary comes from.

# The same Go as go.mod names.
ARG GO_VERSION=1.26.8

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /spillway ./cmd/spillway

# No shell, no package, no file but the program, which has its CA roots inside. The
# user has no name here, so it stands as a number, which also lets Kubernetes see
# that it is not root.
FROM scratch AS base
LABEL org.opencontainers.image.title="spillway" \
      org.opencontainers.image.description="Kafka topics, live in the browser" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 7999
ENTRYPOINT ["/spillway"]
CMD ["serve"]

FROM base AS prebuilt
COPY bin/spillway /spillway

FROM base
COPY --from=build /spillway /spillway
