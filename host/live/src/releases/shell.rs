//! The parts of the scripts that keep releases on a target. `$D` is the
//! directory, `$ID` a release, `$R` its directory, `$PROJECT` compose's project.

/// `c DIR ARGUMENTS…`: compose for the release in DIR. Variables that the
/// release sets are taken from its `.env` alone: compose would prefer those of
/// the session.
pub(super) const COMPOSE: &str = r#"TO=
c() {
  w_rd=$1; shift
  set -- $TO $DC -p "$PROJECT" --project-directory "$D" -f "$w_rd/compose.yml" -f "$w_rd/override.yml" --env-file "$w_rd/.env" "$@"
  (
    while read -r w_v; do
      case $w_v in PATH|HOME|PWD|IFS|DOCKER_*|w_*|'') ;; *) unset "$w_v" ;; esac
    done < "$w_rd/vars"
    cd "$D" && exec "$@" 3>&-
  )
}
limit() { if timeout 1 true 2>/dev/null; then TO="timeout -k 10 $1"; fi; }
live() { { "$@" 2>&1; echo $? > "$T/code"; } | tee "$T/out" >&2; return "$(cat "$T/code")"; }
refuse() { say refused 0 "$1"; [ -z "$2" ] || emit said 0 "$2"; say end 0 ''; exit 0; }
current() {
  CUR=$(readlink "$D/current" 2>/dev/null); CUR=${CUR##*/}
  case $CUR in [0-9]*) [ -d "$D/releases/$CUR" ] || CUR= ;; *) CUR= ;; esac
}
# What is no file, or longer than any state, is none.
state() { [ ! -f "$D/releases/$1/state" ] || head -c 64 "$D/releases/$1/state" 2>/dev/null; }
mark() {
  # mark ID STATE
  [ ! -d "$D/releases/$1/state" ] || { echo "$D/releases/$1/state is a directory" > "$T/err"; refuse disk "$T/err"; }
  { printf '%s\n' "$2" | cat > "$D/releases/$1/state.$S"; } 2> "$T/err" && settle "$D/releases/$1/state.$S" &&
    mv -f "$D/releases/$1/state.$S" "$D/releases/$1/state" 2> "$T/err" || refuse disk "$T/err"
}
"#;

/// `verify DIR`: whether each service that DIR/images names runs the image
/// that stands there; else why not, on stdout.
pub(super) const VERIFY: &str = r#"containers() {
  docker ps -a --no-trunc --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.oneoff=False \
    --format '{{.ID}} {{.Label "com.docker.compose.service"}} {{.Status}}' 2> "$T/err"
}
verify() {
  containers > "$T/ps" || { cat "$T/err"; return 1; }
  v_ids=$(while read -r v_id v_rest; do echo "$v_id"; done < "$T/ps")
  : > "$T/inspected"; : > "$T/digests"
  if [ -n "$v_ids" ]; then
    docker inspect --format '{{.Id}} {{.Image}} {{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}' $v_ids > "$T/inspected" 2> "$T/err"
    v_images=$(while read -r v_id v_image v_rest; do echo "$v_image"; done < "$T/inspected" | sort -u)
    [ -z "$v_images" ] || docker image inspect --format '{{.Id}} {{.RepoDigests}}' $v_images > "$T/digests" 2> "$T/err"
  fi
  while read -r v_service v_ref; do
    v_count=0
    while read -r v_id v_of v_rest; do
      [ "$v_of" = "$v_service" ] || continue
      set -- $(grep "^$v_id " "$T/inspected")
      case $3 in removing|dead) continue ;; esac
      v_count=$((v_count + 1))
      v_new=; [ ! -f "$T/before" ] || grep -q "^$v_id " "$T/before" || v_new=1
      if [ "$3" != running ] || { [ -n "$v_new" ] && [ "$4" != 0 ]; }; then
        echo "service $v_service does not stay up: its container is ${3:-gone}, exit code ${5:-unknown}; its last words:"
        docker logs --tail 20 "$v_id" 2>&1
        return 1
      fi
      case $v_ref in
        sha256:*) [ "$2" = "$v_ref" ] ;;
        *@sha256:*) [ "$2" = "${v_ref##*@}" ] || grep "^$2 " "$T/digests" | grep -qF "@${v_ref##*@}" ;;
        *) [ "$2" = "$(docker image inspect --format '{{.Id}}' "$v_ref" 2>/dev/null)" ] ;;
      esac || { echo "service $v_service runs the image $2, which is not $v_ref"; return 1; }
    done < "$T/ps"
    [ $v_count -gt 0 ] || { echo "service $v_service has no container"; return 1; }
  done < "$1/images"
}
"#;

/// Files that containers read (`env_file`) are found beside the project, where
/// compose looks for them: links into the release.
pub(super) const LINKS: &str = r#"links() {
  # links ID
  while read -r l_name; do
    [ -n "$l_name" ] || continue
    if [ -e "$D/$l_name" ] && [ ! -L "$D/$l_name" ]; then
      mv "$D/$l_name" "$D/$l_name.before-windlass" 2> "$T/err" || return 1
    fi
    link "releases/$1/$l_name" "$D/$l_name" 2> "$T/err" || return 1
  done < "$D/releases/$1/envs"
}
"#;

/// `strays ID`: removes what a later release started beside the services of ID, which was
/// put back. Containers that nobody here started are none of our business.
pub(super) const STRAYS: &str = r#"strays() {
  c "$D/releases/$1" config --services > "$T/kept" 2>/dev/null || return 0
  docker ps -a --no-trunc --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.oneoff=False \
    --format '{{.ID}} {{.Label "com.docker.compose.service"}} {{.Label "com.docker.compose.project.config_files"}}' 2>/dev/null |
  while read -r s_id s_service s_file; do
    case $s_file in "$D/releases/"*) ;; *) continue ;; esac
    s_of=${s_file#"$D/releases/"}; s_of=${s_of%%/*}
    [ "$s_of" != "$1" ] && [ "$(printf '%s\n' "$1" "$s_of" | LC_ALL=C sort | tail -n 1)" = "$s_of" ] || continue
    grep -qxF -- "$s_service" "$T/kept" || echo "$s_id"
  done > "$T/strays"
  [ -s "$T/strays" ] || return 0
  docker stop -t 5 $(cat "$T/strays") > /dev/null 2>&1
  docker rm -f $(cat "$T/strays") > /dev/null 2>&1
}
"#;

/// Accepts or refuses what was put into `$R`, and compares it with what runs.
pub(super) const STAGE: &str = r#"DONE=
trap '[ -n "$DONE" ] || rm -rf "$R"; for f in $MADE; do rm -f "$D/$f"; done; rm -rf "$T"' EXIT
refuse() { say refused 0 "$1"; [ -z "$2" ] || emit said 0 "$2"; [ -z "$3" ] || emit services 0 "$3"; say end 0 ''; exit 0; }
dc 2> "$T/err" || refuse no-compose "$T/err"
MADE=
while read -r f; do
  [ -n "$f" ] || continue
  [ -e "$D/$f" ] || { rm -f "$D/$f"; ln -s "releases/$ID/$f" "$D/$f" 2> "$T/err" || refuse disk "$T/err"; MADE="$MADE $f"; }
done < "$R/envs"
{ c "$R" config > "$T/config" 2> "$T/config.err"; echo $? > "$T/config.code"; } &
base() {
  o=$DC
  set -- config --services
  [ "$DC" = docker-compose ] || set -- "$@" --no-consistency
  ( DC="$o"
    while read -r w_v; do case $w_v in PATH|HOME|PWD|IFS|DOCKER_*|w_*|'') ;; *) unset "$w_v" ;; esac; done < "$R/vars"
    cd "$D" && exec $o -p "$PROJECT" --project-directory "$D" -f "$R/compose.yml" --env-file "$R/.env" "$@" 3>&- )
}
base > "$T/services" 2> "$T/services.err" || rm -f "$T/services"
wait
[ "$(cat "$T/config.code")" = 0 ] || refuse compose "$T/config.err"
if grep -q 'variable is not set' "$T/config.err"; then refuse blank "$T/config.err"; fi
# A compose that cannot list them alone (v1, a service without an image) is
# asked for the services with the images put in.
[ -f "$T/services" ] || c "$R" config --services > "$T/services" 2>/dev/null || : > "$T/services"
while read -r service ref; do
  grep -qxF -- "$service" "$T/services" || refuse "service $service" "" "$T/services"
done < "$R/images"
sed -n "s/^    image: *//p" "$T/config" | tr -d "\"'" | sort -u > "$T/wanted"
: > "$T/missing"; : > "$T/image.err"
while read -r image; do
  { docker image inspect --format '{{.Id}}' "$image" > /dev/null 2>> "$T/image.err" || echo "$image" >> "$T/missing"; } &
done < "$T/wanted"
current
wait
if grep -qvi 'no such image' "$T/image.err"; then refuse docker "$T/image.err"; fi
same() {
  [ -n "$CUR" ] || return 1
  # One that no run ended well with is put up again, to become good.
  [ "$(state "$CUR")" = good ] || return 1
  o="$D/releases/$CUR"
  cmp -s "$R/names" "$o/names" || return 1
  while read -r f; do cmp -s "$R/$f" "$o/$f" || return 1; done < "$R/names"
  while read -r f; do [ -z "$f" ] || [ "$(readlink "$D/$f")" = "releases/$CUR/$f" ] || return 1; done < "$R/envs"
}
up() {
  verify "$R" > /dev/null || return 1
  while read -r service; do
    grep -q "^[0-9a-f]* $service \(Up \|Exited (0)\)" "$T/ps" || return 1
  done < "$T/services"
}
say previous 0 "$CUR"
emit missing 0 "$T/missing"
if same && up; then
  say staged 0 "$CUR"
else
  mark "$ID" staged
  settle "$R"
  DONE=1
  say staged 1 "$ID"
fi
[ -z "$DONE" ] || MADE=
"#;

/// Up, shown to run, switched to; else the last good release is put back.
pub(super) const ACTIVATE: &str = r#"R="$D/releases/$ID"
[ -d "$R" ] && [ -f "$R/images" ] || refuse missing
read -r PROJECT < "$R/project"
dc 2> "$T/err" || refuse no-compose "$T/err"
limit "$LIMIT"
current
PREVIOUS=$CUR
BACK=
if [ -n "$CUR" ] && [ "$CUR" != "$ID" ] && [ "$(state "$CUR")" = good ]; then BACK=$CUR
else
  for r in "$D"/releases/*/; do
    r=${r%/}; r=${r##*/}
    [ "$r" != "$ID" ] && [ "$(state "$r")" = good ] && BACK=$r
  done
  [ -n "$BACK" ] || [ "$CUR" = "$ID" ] || BACK=$CUR
fi
BEFORE=$(state "$ID")
mark "$ID" activating
trap 'mark "$ID" failed; exit 143' INT TERM
containers > "$T/before"
WHY=up
if links "$ID"; then
  if live c "$R" up -d $ORPHANS; then
    WHY=verify
    if verify "$R" > "$T/why"; then
      WHY=switch
      if link "releases/$ID" "$D/current" 2> "$T/why"; then
        WHY=; settle "$D"
        [ -z "$RESTORE" ] || strays "$ID"
      fi
    fi
  else
    r=$?
    [ $r -ne 124 ] && [ $r -ne 137 ] || [ -z "$TO" ] || WHY=timeout
    cp "$T/out" "$T/why"
  fi
else
  cp "$T/err" "$T/why"
fi
if [ -z "$WHY" ]; then
  NEXT=current
  case $RESTORE$BEFORE in restoregood|restoresuperseded) NEXT=good ;; esac
  mark "$ID" $NEXT
  if [ -n "$PREVIOUS" ] && [ "$PREVIOUS" != "$ID" ]; then
    # Only what was good is something to go back to.
    case $(state "$PREVIOUS") in
      good) mark "$PREVIOUS" superseded ;;
      *) mark "$PREVIOUS" failed ;;
    esac
  fi
  say active 0 "$ID"
else
  trap 'exit 143' INT TERM
  mark "$ID" failed
  tail -c 8192 "$T/why" > "$T/cut"
  if [ -n "$BACK" ]; then
    echo "windlass: putting release $BACK back" >&2
    PUT=failed
    rm -f "$T/before"
    if links "$BACK" && live c "$D/releases/$BACK" up -d $ORPHANS && verify "$D/releases/$BACK" > "$T/back"; then
      link "releases/$BACK" "$D/current" 2> "$T/err" && PUT=back
      strays "$BACK"
    fi
    say put 0 "$PUT $BACK"
    [ "$PUT" = back ] || { [ -f "$T/back" ] || tail -c 2048 "$T/out" > "$T/back"; emit putwhy 0 "$T/back"; }
  fi
  emit "$WHY" 1 "$T/cut"
fi
"#;

pub(super) const LIST: &str = r#"current
n=0
for r in "$D"/releases/*/; do
  r=${r%/}
  [ -f "$r/state" ] && [ -f "$r/release.json" ] || continue
  n=$((n + 1)); r=${r##*/}
  c=0; [ "$r" != "$CUR" ] || c=1
  say state $c "$r $(state "$r" | head -n 1)"
  head -c 262144 "$D/releases/$r/release.json" > "$T/record" 2>/dev/null
  emit release $n "$T/record"
done
"#;

pub(super) const MARK_GOOD: &str = r#"current
[ -d "$D/releases/$ID" ] || refuse missing
[ "$CUR" = "$ID" ] || refuse not-current
[ "$(state "$ID")" = good ] || mark "$ID" good
"#;

pub(super) const PRUNE: &str = r#"current
ls -1r "$D/releases" 2>/dev/null > "$T/all"
n=0
while read -r r; do
  case $r in [0-9]*) ;; *) continue ;; esac
  p="$D/releases/$r"
  [ -d "$p" ] && [ ! -L "$p" ] || continue
  case $(state "$r") in
    good|superseded) n=$((n + 1)); [ $n -gt "$KEEP" ] || continue ;;
    # Under way, unless a day old: then it was left over.
    staged|activating|'') [ -n "$(find "$p" -prune -mmin +1440 2>/dev/null)" ] || continue ;;
  esac
  [ "$r" != "$CUR" ] || continue
  rm -rf "$p" 2> "$T/err" || refuse disk "$T/err"
  say gone 0 "$r"
done < "$T/all"
"#;
