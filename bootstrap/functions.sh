# Functions shared by the steps; part of every rendered script, which sets state, LAB_FAMILY, LAB_MIRROR and
# PACKAGES_DOWNLOAD.

fail() {
  echo "labkit: $*" >&2
  exit 1
}

# retry COMMAND...: mirrors fail now and then, and so does a network that has just come up. Status 9: do not retry.
retry() {
  for pause in ${_LABKIT_PAUSES-5 15 45}; do
    tried=0
    "$@" || tried=$?
    case $tried in
      0 | 9) return "$tried" ;;
    esac
    echo "labkit: failed: $*; trying again in $pause s"
    sleep "$pause"
  done
  "$@"
}

# have PROGRAM...
have() {
  for program in "$@"; do
    command -v "$program" >/dev/null || return
  done
}

has_systemd() {
  test -d /run/systemd/system
}

# start_unit UNIT...: enable the first of these units that exists, and start it if systemd runs.
start_unit() {
  have systemctl || return 0
  for unit in "$@"; do
    for folder in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
      if test -e "$folder/$unit" && ! test -L "$folder/$unit"; then
        systemctl --quiet --no-reload enable "$unit"
        if has_systemd; then
          systemctl start "$unit"
        fi
        return
      fi
    done
  done
  fail "none of these units exists: $*"
}

# ---- packages

is_installed() {
  case $LAB_FAMILY in
    debian) test "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ;;
    *) rpm -q --quiet --whatprovides "$1" ;;
  esac
}

# packages ARGUMENTS...: apt-get or dnf with the lab's own mirror, if there is one. The system's list stays as it is.
packages() {
  if test "$LAB_FAMILY" = debian; then
    if test -n "$LAB_MIRROR"; then
      echo "$LAB_MIRROR" >"$state/apt.list"
      set -- -o "Dir::Etc::SourceList=$state/apt.list" -o Dir::Etc::SourceParts=/dev/null "$@"
    fi
    # needrestart looks at every process, which is slow under emulation and of no use here.
    NEEDRESTART_SUSPEND=1 apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
      -o DPkg::Options::=--force-confdef -o DPkg::Options::=--force-confold --no-install-recommends "$@"
  else
    if test -n "$LAB_MIRROR"; then
      mkdir -p "$state/dnf"
      count=0
      for address in $LAB_MIRROR; do
        count=$((count + 1))
        printf '[labkit-%s]\nname=labkit %s\nbaseurl=%s\ngpgcheck=1\ngpgkey=' "$count" "$count" "$address"
        printf 'file://%s ' /etc/pki/rpm-gpg/*
        echo
      done >"$state/dnf/labkit.repo"
      set -- "--setopt=reposdir=$state/dnf" "$@"
    fi
    dnf -y --setopt=install_weak_deps=False "$@"
  fi
}

# Package lists are read once in a run, and again after a failure. What a killed run left half installed is finished
# first; that may need packages that it had not unpacked yet.
refresh_packages() {
  if test "$LAB_FAMILY" = debian && ! test -e "$state/fresh"; then
    if dpkg --force-confdef --force-confold --configure -a; then
      packages update
    else
      packages update && packages --fix-broken install
    fi && : >"$state/fresh"
  fi
}

# are_unknown ARGUMENTS...: whether a package is missing from apt-get's lists.
are_unknown() {
  test "$LAB_FAMILY" = debian && packages --simulate "$@" 2>&1 | grep '^E: Unable to locate package'
}

# Status 9: no list has such a package, and all lists could be read, which the success of apt-get update does not prove.
fetch_packages() {
  if refresh_packages && packages "$@"; then
    return
  fi
  rm -f "$state/fresh"
  if are_unknown "$@" && packages -o APT::Update::Error-Mode=any update && are_unknown "$@"; then
    return 9
  fi
  return 1
}

# with_packages ARGUMENTS...: apt-get or dnf, retried. In a chroot no service is started, and no initramfs is made for
# packages that do not belong in it.
with_packages() {
  initramfs=/etc/initramfs-tools/update-initramfs.conf
  policy=/usr/sbin/policy-rc.d
  if test -e "$initramfs" && test "$1" = install; then
    test -e "$initramfs.labkit" || cp -p "$initramfs" "$initramfs.labkit"
    sed -i 's/^update_initramfs=.*/update_initramfs=no/' "$initramfs"
  fi
  if ! has_systemd && test "$LAB_FAMILY" = debian && ! test -e "$policy"; then
    printf '#!/bin/sh\n# labkit\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  status=0
  retry fetch_packages "$@" || status=$?
  if test -e "$initramfs.labkit"; then
    mv "$initramfs.labkit" "$initramfs"
  fi
  if grep -qs '^# labkit$' "$policy"; then
    rm "$policy"
  fi
  return "$status"
}

install_packages() {
  lacking=
  for package in "$@"; do
    is_installed "$package" || lacking="$lacking $package"
  done
  test -n "$lacking" || return 0
  echo "labkit: installing$lacking"
  # shellcheck disable=SC2086
  with_packages install $lacking || fail "cannot install$lacking"
}

# are_installed PACKAGES: separated by spaces.
are_installed() {
  for package in $1; do
    is_installed "$package" || return
  done
}

# Whether no package is half installed; rpm has no such state.
are_packages_whole() {
  test "$LAB_FAMILY" != debian || test -z "$(dpkg --audit)"
}

# ---- whether what is to be fetched can be reached, before anything is changed

# ahead NAME KEY: whether the step is still to run, as far as its mark tells.
ahead() {
  test "$(cat "$state/steps/$1" 2>/dev/null)" != "$2"
}

# reach STEP KIND WHAT: note what a step will fetch. WHAT is an address for the kinds file and git, packages for the kind
# packages; none of these stands for the package lists in any case.
reach() {
  if test "$2" != packages; then
    echo "$1 $2 $(echo "$3" | sed "s/{arch}/$(machine)/g")" >>"$cache/reach"
  elif test -z "$3" || ! are_installed "$3"; then
    : >"$cache/reach.lists"
  fi
}

# The addresses of the package lists that will be read.
lists() {
  if test "$LAB_FAMILY" = debian; then
    packages --print-uris update 2>/dev/null | sed -n "s/^'\(https\{0,1\}:[^']*\)' .*/\1/p"
  elif ! grep -qs '^ *proxy' /etc/dnf/dnf.conf; then
    release=$(sed -n 's/^VERSION_ID="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release)
    for address in $LAB_MIRROR; do
      echo "${address%/}/repodata/repomd.xml" | sed "s/\$basearch/$(uname -m)/g; s/\$releasever/$release/g"
    done | sed -n '/^https\{0,1\}:/p'
  fi
}

# answers KIND ADDRESS: whether somebody answers there; else why not is printed. Status 9: another try is of no use.
answers() {
  helper=/usr/lib/apt/apt-helper
  if test "$1$LAB_FAMILY" = listdebian && test -x "$helper"; then # apt has proxies of its own
    for address in "$2" "${2%/InRelease}/Release"; do
      said=$(timeout 30 "$helper" -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o Acquire::Retries=0 \
        download-file "$address" "$(mktemp -u "$cache/fetched.XXXXXX")" 2>&1) && return
    done
    echo "$said" | sed -n "s|^E: *||; s|^Failed to fetch [^ ]* *||p" | head -n 1
    return 1
  fi
  if have curl; then
    address=$2
    case $1 in
      git) set -- "${2%/}/info/refs?service=git-upload-pack" --header 'Git-Protocol: version=2' ;;
      *) set -- "$2" --head ;;
    esac
    for more in "" --range=0-0; do # some servers refuse to tell of a file without sending it
      found=$1
      shift
      test -z "$more" || set -- --range 0-0
      tried=0
      said=$(curl -sSL "$@" -o /dev/null -w '\n%{http_code}\n' --connect-timeout 10 --max-time 20 "$found" 2>&1) || tried=$?
      code=$(echo "$said" | grep -x '[0-9][0-9][0-9]' | tail -n 1)
      case $code in
        2??) return ;;
      esac
      set -- "$found" "$@"
    done
    if test "$tried" = 0; then
      echo "the server answers $code for $address"
      return 9
    fi
    echo "$said" | sed -n 's/^curl: *([0-9]*) *//p' | head -n 1
    return 1
  fi
  have bash timeout || return 0
  case $2 in
    https:*) at=${https_proxy:-$2} ;;
    *) at=${http_proxy:-$2} ;;
  esac
  port=80
  case $at in
    https:*) port=443 ;;
  esac
  at=${at#*://}
  at=${at%%/*}
  at=${at##*@}
  case $at in
    *:*[!0-9]*) ;;
    *:*) port=${at##*:} at=${at%:*} ;;
  esac
  # shellcheck disable=SC3025 # it is bash that opens it
  if ! timeout 10 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$at" "$port" 2>/dev/null; then
    echo "nobody answers at $at, port $port"
    return 1
  fi
}

# answers_soon NUMBER STEP KIND ADDRESS: say in a file of its own if nobody answers there.
answers_soon() {
  for pause in ${_LABKIT_PAUSES-5} ""; do
    failed=0
    why=$(answers "$3" "$4") || failed=$?
    test "$failed" != 0 || return 0
    if test -z "$pause" || test "$failed" = 9; then
      break
    fi
    sleep "${pause%% *}"
  done
  echo "$2: $4: ${why:-no answer}" >"$cache/reach.$1.$3"
}

# try_addresses: status 69 where what was noted cannot be reached. All at once, within a minute and a half. Of the
# system's own package lists one is enough.
try_addresses() {
  if test -e "$cache/reach.lists"; then
    lists | sed 's/^/packages list /' >>"$cache/reach"
  fi
  test -s "$cache/reach" || return 0
  sort -u "$cache/reach" >"$cache/reach.sorted"
  echo "labkit: trying $(wc -l <"$cache/reach.sorted") addresses"
  number=0
  while read -r step kind address; do
    number=$((number + 1))
    answers_soon "$number" "$step" "$kind" "$address" </dev/null &
  done <"$cache/reach.sorted"
  wait
  set -- "$cache"/reach.*.list
  if test -z "$LAB_MIRROR" && test $# -lt "$(grep -c '^packages list ' "$cache/reach.sorted")"; then
    rm -f "$cache"/reach.*.list
  fi
  said=$(cat "$cache"/reach.[0-9]*.* 2>/dev/null || :)
  rm -f "$cache"/reach* "$cache"/fetched.*
  if test -n "$said"; then
    printf 'labkit: nothing was begun, these addresses do not answer from here:\n%s\n' "$said" >&2
    exit 69
  fi
}

# ---- sources of tools

# The user who works in the lab: the image's, else the one who called sudo.
lab_user() {
  user=${LAB_USER:-${SUDO_USER:-root}}
  if id -u "$user" >/dev/null 2>&1; then
    echo "$user"
  else
    echo root
  fi
}

machine() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
  esac
}

# download URL FILE
download() {
  # shellcheck disable=SC2086
  have curl || install_packages $PACKAGES_DOWNLOAD
  retry curl -fsSL --connect-timeout 20 --speed-limit 1000 --speed-time 60 -o "$2" "$1" || fail "cannot download $1"
}

# verify FILE SHA256 NAME
verify() {
  found=$(sha256sum "$1")
  test "${found%% *}" = "$2" || fail "$3 has the wrong sha256: ${found%% *}, expected $2"
}

# uploaded NAME: the path of a file that labkit uploaded, or that is in sources/ beside this script.
uploaded() {
  beside=$(dirname -- "$0")/sources
  if test -e "$state/sources/$1"; then
    echo "$state/sources/$1"
  # In a directory that any user can write to, such as /tmp, it could be any user's.
  elif test -e "$beside/$1" && test -z "$(find "$beside" "$beside/.." -maxdepth 0 -perm -o+w)"; then
    echo "$beside/$1"
  else
    fail "the file $1 is missing: put it into $state/sources"
  fi
}

# fetch_git FOLDER REPOSITORY REFSPEC...
fetch_git() {
  into=$1
  shift
  git -C "$into" fetch -q --update-head-ok "$@" +HEAD:refs/labkit/head
}

# commit_of FOLDER REF
commit_of() {
  git -C "$1" rev-parse -q --verify "$2^{commit}"
}

# checkout REPOSITORY REF FOLDER: the commit that REF names, HEAD if it is empty, in a repository or bundle. Alone, unless
# $history is set: without its tags git cannot describe it.
checkout() {
  git init -q "$3"
  ref=${2:-refs/labkit/head}
  if test -n "${history-}" && fetch_git "$3" "$1" '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*' &&
    commit_of "$3" "$ref"; then
    : # but not a server's other refs, such as every pull request
  elif ! test -f "$1" && git -C "$3" fetch -q --depth 1 "$1" "${2:-HEAD}" 2>"$3.err"; then
    ref=FETCH_HEAD
  elif grep -qs "couldn't find remote ref" "$3.err" && ! expr "$ref" : '[0-9a-f]\{4,40\}$' >/dev/null; then
    fail "$1 has no ref ${2:-HEAD}"
  else
    # Not every server serves a single commit, and none an abbreviated one: fetch everything.
    retry fetch_git "$3" "$1" '+refs/*:refs/*' || fail "cannot fetch $1"
  fi
  rm -f "$3.err"
  commit=$(commit_of "$3" "$ref") || fail "$1 has no ref ${2:-HEAD}"
  git -C "$3" -c advice.detachedHead=false checkout -q "$commit"
}

# unpack ARCHIVE FOLDER: into FOLDER, without the single directory that most archives have at the top.
unpack() {
  mkdir "$2.all"
  tar -C "$2.all" --no-same-owner -xf "$1" || fail "$1 is not an archive"
  set -- "$1" "$2" "$2.all"/*
  if test $# -eq 3 && test -d "$3"; then
    mv "$3" "$2"
    rmdir "$2.all"
  else
    mv "$2.all" "$2"
  fi
}

# take TOOL FROM URL REF SHA256 SUMS: set $taken to a directory with tree (source code) or program (the tool itself).
take() {
  taken=$lab/src/$1.part
  rm -rf "$taken"
  mkdir -p "$taken"
  if test "$2" = git; then
    checkout "$3" "$4" "$taken/tree"
    return
  fi
  if test "$2" = upload; then
    file=$(uploaded "$3")
  else
    file=$taken/download
    address=$(echo "$3" | sed "s/{arch}/$(machine)/g")
    download "$address" "$file"
    sum=$5
    if test -z "$sum"; then
      download "$6" "$taken/sums"
      sum=$(sum_of "$taken/sums" "${address##*/}")
      test -n "$sum" || fail "$6 does not list ${address##*/}"
    fi
    verify "$file" "$sum" "$address"
  fi
  case $(head -c 16 "$file" | tr -d '\0') in
    '# v'?' git bundle'*) checkout "$file" "$4" "$taken/tree" ;;
    ?ELF* | '#!'*)
      cp "$file" "$taken/program"
      chmod 755 "$taken/program"
      ;;
    *) unpack "$file" "$taken/tree" ;;
  esac
}

# sum_of LIST NAME: the sha256 of a file in a list as sha256sum prints it, signed or not, or in go.dev's.
sum_of() {
  if test "$(head -c 1 "$1")" = '['; then
    # shellcheck disable=SC2086
    have jq || install_packages ${PACKAGES_JQ-} >&2
    jq -r --arg name "$2" '[.[].files[] | select(.filename == $name) | .sha256] | first // empty' "$1"
  else
    sed -n "s/^\([0-9a-f]\{64\}\) [ *]$2\$/\1/p" "$1" | head -n 1
  fi
}

# publish FILE PATH: install the program atomically, with its SELinux label.
publish() {
  mkdir -p "${2%/*}" "$state/published"
  : >"$state/published/${2##*/}"
  cp "$1" "$2.labkit"
  chmod 755 "$2.labkit"
  mv -f "$2.labkit" "$2"
  if have restorecon; then
    restorecon "$2"
  fi
}

# withdraw PATH: remove what publish has installed, in favour of the distribution's.
withdraw() {
  if test -e "$state/published/${1##*/}"; then
    rm -f "$1" "$state/published/${1##*/}"
  fi
}

# keep TOOL: move the built source tree to its final place.
keep() {
  rm -rf "$lab/src/$1"
  mv "$lab/src/$1.part/tree" "$lab/src/$1"
  rm -rf "$lab/src/$1.part"
}

# The refs of RUNTIME_TOOLS_OLDER that the runtimes of this machine need.
older_refs() {
  echo "$RUNTIME_TOOLS_OLDER" | while read -r runtime before ref; do
    have "$runtime" || continue
    found=$("$runtime" --version | sed -n '1s/.* version //p')
    test -z "$found" || test "$(printf '%s\n' "$found" "$before" | sort -V | head -n 1)" = "$before" || echo "$ref"
  done | sort -u
}

# go_here TREE IMPORT: change to where Go can build the tree. Without go.mod it must be in a GOPATH, by import path.
go_here() {
  export PATH="$lab/go/bin:$PATH" GOCACHE="$cache/go-build" GOFLAGS=-mod=vendor GOTOOLCHAIN=local GOPATH="$cache/gopath"
  cd "$1"
  if ! test -e go.mod; then
    export GO111MODULE=off GOFLAGS=
    mkdir -p "$GOPATH/src/${2%/*}"
    ln -sfn "$1" "$GOPATH/src/$2"
    cd "$GOPATH/src/$2"
  elif ! test -d vendor; then
    export GOFLAGS=
  fi
}
