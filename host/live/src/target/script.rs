//! Scripts for targets: what they begin with, and how they answer.
//!
//! A script's answers go to its stdout, which nothing else there writes to, as
//! frames: a line `MARK KIND NUMBER LENGTH`, so many bytes, a line end. What
//! programs print goes to stderr, line by line into the log, or into frames.

use windlass_model::{CallError, TargetName};

/// Finds the Docker engine that the login reaches, and names it for `docker`
/// and compose alike: what the session says, then the usual sockets.
pub(crate) const FIND_DOCKER: &str = r#"PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/snap/bin
if [ -z "$DOCKER_HOST" ]; then
  w_u=$(id -u)
  for w_s in /var/run/docker.sock "$XDG_RUNTIME_DIR/docker.sock" "/run/user/$w_u/docker.sock" "$HOME/.docker/run/docker.sock"; do
    if [ -S "$w_s" ] && [ -w "$w_s" ]; then DOCKER_HOST=unix://$w_s; break; fi
  done
  [ -n "$DOCKER_HOST" ] || DOCKER_HOST=unix:///var/run/docker.sock
  export DOCKER_HOST
fi"#;
