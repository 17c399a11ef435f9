# purpose: runc's integration tests, their helper programs built, and archives for their containers
# inputs: RUNC_TESTS_FROM RUNC_TESTS_URL RUNC_TESTS_REF RUNC_TESTS_SHA256 RUNC_TESTS_SUMS
# check: cd /opt/labkit/src/runc-tests && test -x tests/cmd/_bin/recvtty && test -e labkit-ref && set -- tests/integration/testdata/*.tar.xz && test $# -ge 2
# needs: bats test-programs busybox
# builds: toolchain libseccomp go
#
# The tests unpack tests/integration/testdata/{busybox,debian}-ARCH.tar.xz into each container. Upstream fetches these
# from where no mirror has them. An archive that the tree brings stays as it is; else it is made of this system:
# busybox with its applets, and the programs of this distribution.

# applets DIRECTORY: a root file system of busybox. As upstream's, it has no /proc and no /sys: mask.bats puts links there.
applets() {
  mkdir -p "$1/bin" "$1/dev" "$1/etc" "$1/home" "$1/root" "$1/tmp" "$1/usr/bin" "$1/usr/sbin" "$1/var/tmp"
  chmod 700 "$1/root"
  chmod 1777 "$1/tmp" "$1/var/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  for name in $("$1/bin/busybox" --list); do
    ln -f "$1/bin/busybox" "$1/bin/$name" 2>/dev/null || :
  done
  accounts "$1"
}

# accounts DIRECTORY: users and groups as the images of Docker's library have them.
accounts() {
  cat >"$1/etc/passwd" <<END
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
END
  cat >"$1/etc/group" <<END
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
www-data:x:33:
nogroup:x:65534:
END
}

# system DIRECTORY: a root file system of this system's own shell, coreutils and util-linux.
system() {
  mkdir -p "$1/dev" "$1/etc" "$1/home" "$1/proc" "$1/root" "$1/sys" "$1/tmp" "$1/var/tmp" "$1/run" "$1/mnt" "$1/opt" \
    "$1/srv" "$1/usr/bin" "$1/usr/sbin" "$1/usr/lib"
  chmod 700 "$1/root"
  chmod 1777 "$1/tmp" "$1/var/tmp"
  for link in bin sbin lib lib64; do # as this system has them: links to /usr, or directories
    if test -L "/$link"; then
      cp -P "/$link" "$1/$link"
      mkdir -p "$1/$(readlink "/$link")"
    elif test -d "/$link"; then
      mkdir -p "$1/$link"
    fi
  done
  for name in sh bash cat ls cp mv rm mkdir rmdir ln chmod chown chgrp touch stat id env printenv pwd echo printf test true \
    false sleep head tail cut tr sort uniq wc od dd df du tee date expr seq uname hostname whoami groups nproc readlink \
    realpath dirname basename mktemp mkfifo mknod mount umount findmnt mountpoint chrt ionice taskset nice renice unshare \
    nsenter setpriv setsid flock lsns prlimit grep sed awk gawk mawk find xargs ps kill timeout sync kmod getent ldd ldconfig; do
    program=$(PATH=/usr/bin:/usr/sbin:/bin:/sbin command -v "$name") || continue
    case $program in
      /*) ;;
      *) program=/usr/bin/$name ;; # what this shell has built in
    esac
    test -e "$program" || continue
    tree_copy "$program" "$1"
    ldd "$(readlink -f "$program")" 2>/dev/null | sed -n 's|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
      tree_copy "$library" "$1"
    done
  done
  cp /etc/os-release "$1/etc/os-release"
  test ! -e /etc/ld.so.conf || cp -r /etc/ld.so.conf* "$1/etc/"
  accounts "$1"
}

# tree_copy FILE DIRECTORY: the file, with the links that its path goes through.
tree_copy() {
  from=$1
  while ! test -e "$2$from"; do
    to=$2$(cd "${from%/*}" && pwd -P)/${from##*/}
    mkdir -p "${to%/*}"
    test -L "$to" || cp -P --preserve=mode,timestamps "$from" "$to"
    test -L "$from" || break
    next=$(readlink "$from")
    case $next in
      /*) from=$next ;;
      *) from=${from%/*}/$next ;;
    esac
  done
}

# archive DIRECTORY FILE
archive() {
  XZ_OPT=-2 tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cJf "$2.part" .
  mv "$2.part" "$2"
  rm -rf "$1"
}

take runc-tests "$RUNC_TESTS_FROM" "$RUNC_TESTS_URL" "$RUNC_TESTS_REF" "$RUNC_TESTS_SHA256" "$RUNC_TESTS_SUMS"
tree=$taken/tree
test -d "$tree/tests/integration" || fail "$RUNC_TESTS_URL has no tests/integration: it is not a tree of runc"
set -- "$tree"/tests/integration/*.bats
test -e "$1" || fail "$RUNC_TESTS_URL has no tests/integration/*.bats: it is a tree of runc without its tests"
chmod -R u+w "$tree"

data=$tree/tests/integration/testdata
mkdir -p "$data"
for image in busybox debian; do
  wanted=$data/$image-$(machine).tar.xz
  if ! test -e "$wanted" && grep -q "$image" "$tree/tests/integration/get-images.sh"; then
    rm -rf "$taken/root"
    case $image in
      busybox) applets "$taken/root" ;;
      debian) system "$taken/root" ;;
    esac
    archive "$taken/root" "$wanted"
  fi
done

(
  go_here "$tree" github.com/opencontainers/runc
  # Its Makefile knows which programs there are, and where.
  if grep -q libpathrs Makefile && ! pkg-config --exists pathrs; then
    export RUNC_BUILDTAGS=-libpathrs
  fi
  make test-binaries
)
# The sources of runc itself are not for the tests; what they are of is told.
commit=$(git -C "$tree" rev-parse -q --verify HEAD 2>/dev/null) || commit=
rm -rf "$taken/whole"
mv "$tree" "$taken/whole"
mkdir -p "$tree"
for part in tests contrib VERSION; do
  test ! -e "$taken/whole/$part" || mv "$taken/whole/$part" "$tree/$part"
done
echo "${commit:-$RUNC_TESTS_REF}" >"$tree/labkit-ref"
keep runc-tests
