#!/bin/sh
# The observer pipeline as a script: the commands that a workflow would run, with the
# same waiting. DOCKER_CONFIG is logged in; SSH is an `ssh` that shares one connection.
set -eu

# build
docker build --quiet --tag "$IMAGE:$TAG" --build-arg "VERSION=$TAG" . >/dev/null

# verify
container=$(docker run --detach "$IMAGE:$TAG")
trap 'docker rm --force --volumes "$container" >/dev/null 2>&1 || true' EXIT
attempts=0
until [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = healthy ]; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt 300 ]
    sleep 0.1
done
docker rm --force --volumes "$container" >/dev/null
trap - EXIT

# push
docker tag "$IMAGE:$TAG" "$IMAGE:latest"
docker push --quiet "$IMAGE:$TAG" >/dev/null
docker push --quiet "$IMAGE:latest" >/dev/null
reference=$(docker inspect --format '{{index .RepoDigests 0}}' "$IMAGE:$TAG")

# deploy
$SSH "mkdir -p '$DIR'"
$SSH "cat > '$DIR/docker-compose.yml'" <docker-compose.server.yml
printf 'IMAGE=%s\nOBSERVER_PORT=%s\n' "$reference" "$PORT" | $SSH "cat > '$DIR/.env'"
printf '%s' "$PASSWORD" |
    $SSH "docker --config '$DIR/login' login --username '$USERNAME' --password-stdin '$REGISTRY'" >/dev/null 2>&1
$SSH "cd '$DIR' && docker compose config --quiet"
$SSH "cd '$DIR' && docker --config '$DIR/login' pull --quiet '$reference'" >/dev/null
$SSH "cd '$DIR' && docker compose up --detach --quiet-pull" >/dev/null 2>&1
$SSH "rm -r '$DIR/login'"

# health
attempts=0
until $SSH "curl --fail --silent --max-time 10 http://localhost:$PORT/health" | grep -q "$TAG"; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt 12 ]
    sleep 5
done
