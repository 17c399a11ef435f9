# foreign.sh INTERPRETER COMMAND...: runs COMMAND as root of a user namespace in which programs of the interpreter's
# architecture, aarch64, run by it. Nothing of that is seen outside: the kernel keeps a list of interpreters for each user
# namespace (since Linux 6.7). TMPDIR is a directory of the caller's own.
set -eu
host=/proc/sys/fs/binfmt_misc/qemu-aarch64
if grep -qs '^flags: .*F' "$host" && grep -qs '^enabled' "$host"; then
  export FOREIGN_HOST=1 # the host's own list has it
fi
# shellcheck disable=SC2016
inside='
set -eu
read -r _ <"$TMPDIR/go"
interpreter=$1
shift
mount -t proc proc /proc
if ! { mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && printf %s "$FOREIGN_MAGIC:$interpreter:POCF" \
  >/proc/sys/fs/binfmt_misc/register; } 2>"$TMPDIR/why" && test -z "${FOREIGN_HOST-}"; then
  echo "E: programs of arm64 cannot be run on this host: $(cat "$TMPDIR/why")" >&2
  exit 1
fi
exec "$@"
'
zeros='\x00\x00\x00\x00\x00\x00\x00\x00'
magic="\\x7fELF\\x02\\x01\\x01\\x00$zeros\\x02\\x00\\xb7\\x00"
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
export FOREIGN_MAGIC=":qemu-aarch64:M::$magic:$mask"
rm -f "$TMPDIR/go"
mkfifo "$TMPDIR/go"
set -- --mount --pid --fork --kill-child --propagation=private sh -c "$inside" sh "$@"
if test "$(id -u)" != 0; then
  set -- --map-auto --map-root-user "$@"
fi
unshare --user "$@" &
pid=$!
trap 'kill "$pid" 2>/dev/null' TERM INT HUP
if test "$(id -u)" = 0; then # root has all its ids there
  mine=$(readlink /proc/self/ns/user)
  while theirs=$(readlink "/proc/$pid/ns/user") && test "$theirs" = "$mine"; do
    sleep 0.02
  done
  cat /proc/self/uid_map >"/proc/$pid/uid_map"
  cat /proc/self/gid_map >"/proc/$pid/gid_map"
fi
echo go >"$TMPDIR/go"
wait "$pid"
