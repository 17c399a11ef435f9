#!/bin/sh
@HEAD@
# shellcheck disable=SC2016 # what stands in quotes is for other programs
set -u
RUNTIME=${1:-@RUNTIME@}
here=$(cd "$(dirname "$0")" && pwd) || exit 2

if [ "${LABKIT_INSIDE:-}" = "" ]; then
    [ "$(id -u)" = 0 ] || { echo "run.sh: needs root" >&2; exit 2; }
    path=$(command -v "$RUNTIME") || { echo "run.sh: there is no $RUNTIME here: sh run.sh RUNTIME" >&2; exit 2; }
    RUNTIME=$(cd "$(dirname "$path")" && pwd)/$(basename "$path")
    for BUSYBOX in "$(command -v busybox.static)" "$(command -v busybox-static)" "$(command -v busybox)" ""; do
        [ -x "$BUSYBOX" ] && ! head -c 4096 "$BUSYBOX" | grep -q /ld- && break
    done
    [ "$BUSYBOX" ] || { echo "run.sh: needs a static busybox (Debian: busybox-static)" >&2; exit 2; }
    NAME=labkit-$$
    W=/tmp/$NAME
    mkdir "$W" || exit 2
    # The same environment as in the suite, and namespaces of its own.
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TMPDIR="$W" \
        LABKIT_INSIDE=1 NAME="$NAME" W="$W" BUSYBOX="$BUSYBOX" \
        unshare -m -p -n -i -u -f sh "$here/run.sh" "$RUNTIME"
    status=$?
    rmdir "$W"
    find /sys/fs/cgroup -depth -type d \( -name "$NAME" -o -path "*/$NAME/*" \) -exec rmdir {} \; 2>/dev/null
    exit $status
fi

umask 022
mount --make-rprivate / && mount --make-rshared / && mount -t proc proc /proc &&
    mount -t tmpfs -o mode=755 labkit "$W" && ip link set lo up || exit 2
count=0 different=0 cwd=/ input='' mask=022

bundle() { # NAME: a bundle with a root file system of busybox, without config.json
    mkdir "$W/$1" "$W/$1/out" "$W/$1/rootfs"
    for directory in bin proc dev sys tmp out etc; do
        mkdir "$W/$1/rootfs/$directory"
    done
    chmod 1777 "$W/$1/out" "$W/$1/rootfs/tmp"
    cp "$BUSYBOX" "$W/$1/rootfs/bin/busybox"
    "$W/$1/rootfs/bin/busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$W/$1/rootfs/bin/$applet"
    done
}

put() { # FILE MODE PATH: a file of this folder, with the names of this run in it
    sed -e "s|@WORK@|$W|g; s|@NAME@|$NAME|g; s|@BUSYBOX@|$BUSYBOX|g" "$here/work/$1" >"$W/.file"
    if [ -e "$W/.pids" ]; then sed -f "$W/.pids" "$W/.file" >"$W/.file2" && mv "$W/.file2" "$W/.file"; fi
    rm -rf "${W:?}/$3"
    mv "$W/.file" "$W/$3" && chmod "$2" "$W/$3"
}

step() { # STATUS COMMAND...: run a command as the suite does; STATUS is how it ended then
    was=$1
    shift
    count=$((count + 1))
    printf '\n$ %s\n' "$*"
    out=$W/$count.out err=$W/$count.err
    for word; do case $word in *.pid) out=${word%.pid}.out err=${word%.pid}.err ;; esac; done
    if [ "$input" ]; then
        (cd "$cwd" && umask "$mask" && exec timeout -s KILL 40 "$@" <"$input" >"$out" 2>"$err")
    else
        : | (cd "$cwd" && umask "$mask" && exec timeout -s KILL 40 "$@" >"$out" 2>"$err")
    fi
    now=$?
    "$BUSYBOX" awk 1 "$out" "$err" # as cat, with an end to each line
    printf 'exit status %s' "$now"
    if [ "$now" = "$was" ]; then echo; else
        different=$((different + 1))
        printf ', which was %s\n' "$was"
    fi
    cwd=/ input='' mask=022
}

beside() { # COMMAND...: start a command, and go on
    printf '\n$ %s &\n' "$*"
    (cd "$cwd" && exec "$@" </dev/null >/dev/null 2>&1) &
    cwd=/
}

known() { # NAME NUMBER: a process that files name
    printf 's|@%s@|%s|g\n' "$1" "$2" >>"$W/.pids"
}

ended() { # PIDFILE: wait until that process has ended, 20 seconds at most
    tries=0
    while [ $tries -lt 200 ] && grep -qs '^State:.[^ZX]' "/proc/$(cat "$W/$1")/status"; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

found() { # TEXT: here the check found something bad
    printf '  (then: %s)\n' "$1"
}

show() { # PATH: what a container wrote
    if [ -f "$W/$1" ] && [ -s "$W/$1" ]; then printf '\n%s:\n' "$1"; "$BUSYBOX" awk 1 "$W/$1"; fi
}

forget() { # ID: delete a container that may be left
    timeout -s KILL 20 "$RUNTIME" delete --force "$1" >/dev/null 2>&1 </dev/null
}

listen() { # PATH: take what comes over a socket, as the check does
    python3 -c 'import socket, sys
listener, held = socket.socket(socket.AF_UNIX), []
listener.bind(sys.argv[1])
listener.listen()
while True:
    connection = listener.accept()[0]
    held.append((connection, connection.recvmsg(4096, 4096)))' "$1" &
    tries=0
    while [ $tries -lt 50 ] && [ ! -S "$1" ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

@STEPS@

if [ "$different" = 0 ]; then
    printf '\nAll %s commands ended as they did then.\n' "$count"
else
    printf '\n%s of %s commands ended in another way.\n' "$different" "$count"
    exit 1
fi
