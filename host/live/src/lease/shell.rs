//! The parts of the scripts that keep leases. `$P` is the lease's directory,
//! `$RUN` who asks; what begins with `H_` was read from `holder`.

/// `holder` reads who holds it, or held it last; `held` says whether it still
/// does. `$left`: seconds until then.
///
/// Seconds are counted from the start of the machine where it tells them, so
/// that a clock that is set does not end a lease, nor prolong it. A number that
/// cannot be (from another start, or farther off than the time to live) counts
/// from now; whoever asks for the lease writes that down.
pub(super) const READ: &str = r#"now= BOOT=
if { read -r now c_rest < /proc/uptime; } 2>/dev/null; then
  now=${now%%.*}
  { read -r BOOT < /proc/sys/kernel/random/boot_id; } 2>/dev/null || BOOT=uptime
fi
case $now in ''|*[!0-9]*) now=$(date +%s) BOOT=date ;; esac
# Fit to be counted with: a shell takes 08 for octal, and wraps what is too large.
number() { case $1 in ''|*[!0-9]*|0?*|????????????????*) return 1 ;; esac; }
holder() {
  H_RUN= H_ODD=
  [ -f "$P/holder" ] || return 1
  read -r H_RUN H_FENCE H_SINCE H_EXPIRES H_TTL H_OWNER H_BOOT H_REASON H_END < "$P/holder" || { H_RUN=; return 1; }
  for h_n in "$H_FENCE" "$H_SINCE" "$H_EXPIRES" "$H_TTL"; do
    number "$h_n" || { H_RUN=; return 1; }
  done
  [ "$H_END" = . ] || { H_RUN=; return 1; }
  left=$((H_EXPIRES - now))
  if [ "$H_BOOT" != "$BOOT" ] || [ $left -gt "$H_TTL" ]; then left=$H_TTL H_ODD=1; fi
}
held() { holder && { [ "$H_TTL" = 0 ] || [ $left -gt 0 ]; }; }
at() { date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo unknown; }
tell() { say lease $left "$H_RUN $H_FENCE $(at "$H_SINCE") $H_OWNER $H_TTL $H_REASON"; }
"#;

pub(super) const LOCK: &str = r#"bad() { say failed 0 "$(cat "$T/err")"; say end 0 ''; exit 0; }
mkdir -p "$P" 2> "$T/err" || bad
locked=
if command -v flock >/dev/null 2>&1; then
  # In a shell of its own: a redirection that fails may end the one it is in.
  ( true >> "$P/mutex" && true >> "$P/operations" ) 2> "$T/err" || bad
  exec 9>> "$P/mutex"
  flock 9 2> "$T/err" && locked=1
fi
if [ -z "$locked" ]; then
  i=0
  until mkdir "$P/mutex.d" 2>/dev/null; do
    # Whoever made it holds it for moments only: after a minute it was killed.
    [ -z "$(find "$P/mutex.d" -prune -mmin +1 2>/dev/null)" ] || rmdir "$P/mutex.d" 2>/dev/null
    i=$((i + 1))
    [ $i -lt 100 ] || { echo "another program keeps $P/mutex.d" > "$T/err"; bad; }
    sleep 0.1 2>/dev/null || sleep 1
  done
  trap 'rmdir "$P/mutex.d" 2>/dev/null; rm -rf "$T"' EXIT
fi
# `mv` would move a file into it.
no_directory() { [ ! -d "$1" ] || { echo "$1 is a directory" > "$T/err"; bad; }; }
put_holder() {
  no_directory "$P/holder"
  # By cat: a full disk is no "No space left" when it is the shell that writes.
  { echo "$H_RUN $H_FENCE $H_SINCE $((now + H_TTL)) $H_TTL $H_OWNER $BOOT $H_REASON ." | cat > "$P/holder.$S"; } 2> "$T/err" || { rm -f "$P/holder.$S"; bad; }
  settle "$P/holder.$S"
  mv -f "$P/holder.$S" "$P/holder" 2> "$T/err" || bad
  left=$H_TTL
}
# No operation of a former holder may still be at work here.
quiet() {
  [ -n "$locked" ] || return 0
  exec 8>> "$P/operations"
  flock -n 8 2>/dev/null
}
"#;

pub(super) const ACQUIRE: &str = r#"if holder && [ "$H_RUN" = "$RUN" ]; then
  H_OWNER=$OWNER H_TTL=$TTL H_REASON=$REASON
  put_holder
elif held; then
  [ -z "$H_ODD" ] || put_holder
elif quiet; then
  no_directory "$P/fence"
  fence=0
  [ ! -f "$P/fence" ] || read -r fence < "$P/fence"
  number "$fence" || fence=0
  fence=$((fence + 1))
  { echo $fence | cat > "$P/fence.$S"; } 2> "$T/err" || { rm -f "$P/fence.$S"; bad; }
  settle "$P/fence.$S"
  mv -f "$P/fence.$S" "$P/fence" 2> "$T/err" || bad
  H_RUN=$RUN H_FENCE=$fence H_SINCE=$(date +%s) H_OWNER=$OWNER H_TTL=$TTL H_REASON=$REASON
  put_holder
else
  left=0
  [ -n "$H_RUN" ] || { H_RUN=- H_FENCE=0 H_SINCE=0 H_OWNER=Pw==; }
  H_TTL=1 H_REASON=-
fi
tell
"#;

/// Nobody took it meanwhile: it is still ours, whatever the clock says.
pub(super) const RENEW: &str = r#"if holder && [ "$H_RUN" = "$RUN" ]; then
  H_TTL=$TTL
  put_holder
  tell
elif held; then
  tell
fi
"#;

pub(super) const RELEASE: &str = r#"[ -d "$P" ] || { say end 0 ''; exit 0; }
"#;

/// `$WHOSE`: the holder that is to hold it no longer.
pub(super) const RELEASE_LOCKED: &str = r#"if holder && [ "$H_RUN" = "$WHOSE" ]; then rm -f "$P/holder" 2> "$T/err" || bad; fi
"#;

pub(super) const STATUS: &str = "if held; then tell; fi\n";

/// `fenced`: whether `$W_LEASE`, a run and its number, is what holds the lease
/// in `$W_P` now; else `$w_held` is what does. Where the target has `flock`, nobody
/// takes the lease over before this shell has ended or closed descriptor 8.
///
/// `$W_SOFT`: a login that may not look into the directory passes.
pub(super) const FENCED: &str = r#"fenced() {
  [ -z "$W_SOFT" ] || [ -r "$W_P/operations" ] || return 0
  if [ -r "$W_P/operations" ] && command -v flock >/dev/null 2>&1; then
    exec 8< "$W_P/operations"
    flock -s 8 2>/dev/null || exec 8<&-
  fi
  w_held=
  [ ! -f "$W_P/holder" ] || [ ! -r "$W_P/holder" ] || read -r w_held < "$W_P/holder"
  case $w_held in "$W_LEASE "*) return 0 ;; esac
  return 1
}
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What `held` says of a holder whose lease was written at 1000 s, by a clock that
    /// shows `now`; `$left` when it holds.
    fn left(holder: &str, now: u32) -> String {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("holder"), format!("{holder}\n")).expect("written");
        // As on a system that does not tell when it was started.
        let read = READ.replace("/proc/uptime", "/nonexistent");
        let script = format!(
            "P={}\ndate() {{ echo {now}; }}\n{read}\nheld && echo $left",
            dir.path().display()
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("shell");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }

    #[test]
    fn without_the_time_since_the_start_the_clock_counts() {
        let holder = "run 1 1000 1060 60 Pw== date - .";
        assert_eq!(left(holder, 1010), "50");
        assert_eq!(left(holder, 1060), "");
        // Set back, or another clock: it lasts no longer than its time to live from now on.
        assert_eq!(left(holder, 500), "60");
        assert_eq!(left("run 1 1000 1060 60 Pw== other-start - .", 1200), "60");
    }

    #[test]
    fn a_lock_without_an_end_holds() {
        assert_eq!(left("run 1 1000 1000 0 Pw== date Pw== .", 99_999), "-98999");
    }

    #[test]
    fn what_is_not_whole_holds_nothing() {
        for holder in [
            "",
            "run",
            "run 1 1000 1060 60 Pw== date -",
            "run x 1000 1060 60 Pw== date - .",
            "run 1 1000 -60 60 Pw== date - .",
            "run 1 1000 08 60 Pw== date - .",
            "run 1 1000 99999999999999999999 60 Pw== date - .",
            "run 1 1000 1060 9223372036854775808 Pw== date - .",
        ] {
            assert_eq!(left(holder, 1010), "", "{holder:?}");
        }
    }
}
