# How runtimes are built from source, in the chroot of labkit/images/chroot.py: as an ordinary user, in /build, which has
# cache/ (of the same sources' builds before) and is to have tree/ (the sources) and out/ (the program). Part of the script
# of labkit/images/runtimes.py, after functions.sh, which sets SYSTEM, MODULE, CRATE, VERSION, DIRECTORY, PACKAGE, PROGRAM, RECIPE.
# Only get_sources and fetch_dependencies have a network, and nothing of the sources is run by them.

# use_go TREE: a Go that is new enough for the tree: the platform's, else the one that it asks for, as a Go module.
use_go() {
  export GOPATH="$cache/gopath" GOCACHE="$cache/go-build" GOFLAGS=-modcacherw
  wanted=$(sed -n 's/^toolchain go\([0-9.]*\).*/\1/p; s/^go \([0-9.]*\).*/\1/p' "$1/go.mod" 2>/dev/null | sort -V | tail -n 1)
  found=$(GOTOOLCHAIN=local go version)
  found=${found#go version go}
  if test -z "$wanted" || printf '%s\n' "$wanted" "${found%% *}" | sort -V -C; then
    return
  fi
  case $wanted in
    *.*.*) ;;
    *) wanted=$wanted.0 ;;
  esac
  toolchain=golang.org/toolchain@v0.0.1-go$wanted.linux-$(machine)
  if ! test -x "$GOPATH/pkg/mod/$toolchain/bin/go"; then
    echo "labkit: Go ${found%% *} is too old, fetching $wanted"
    (cd "$HOME" && go mod download "$toolchain") || fail "these sources need Go $wanted, and it cannot be had as a Go module"
    # Go before 1.21 does not know that there are programs in this module.
    chmod -R u+x "$GOPATH/pkg/mod/$toolchain/bin" "$GOPATH/pkg/mod/$toolchain/pkg/tool"
  fi
  ln -sfn "$GOPATH/pkg/mod/$toolchain" "$lab/go"
}

# sources: where the Go module is: a repository may have it in a directory, which the module itself then is.
sources() {
  if test -n "$DIRECTORY" && test -d "/build/tree/$DIRECTORY"; then
    echo "/build/tree/$DIRECTORY"
  else
    echo /build/tree
  fi
}

use_cargo() {
  export CARGO_HOME="$cache/cargo" CARGO_TERM_COLOR=never
  mkdir -p "$cache/target"
}

# get_sources WAY: as a Go module or a crate, into tree.
get_sources() {
  case $1 in
    module)
      use_go /nowhere
      (cd "$HOME" && go mod download -json "$MODULE@$VERSION" >/build/module.json) || {
        sed -n 's/\\[nt]/ /g; s/^\t"Error": "\(.*\)",\{0,1\}$/labkit: \1/p' /build/module.json
        fail "there is no Go module $MODULE@$VERSION to be had"
      }
      cp -R "$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' /build/module.json)" /build/tree
      chmod -R u+w /build/tree
      rm -rf /build/tree/vendor # a module is published without it, but for its list
      ;;
    crate)
      use_cargo
      mkdir -p "$HOME/get/src"
      printf '[package]\nname = "get"\nversion = "0.0.0"\n[dependencies]\n%s = "=%s"\n' "$CRATE" "$VERSION" >"$HOME/get/Cargo.toml"
      echo 'fn main() {}' >"$HOME/get/src/main.rs"
      (cd "$HOME/get" && cargo fetch 2>"$HOME/fetched") || {
        cat "$HOME/fetched"
        grep -m 1 '^candidate versions' "$HOME/fetched" || grep -m 1 '^error: ' "$HOME/fetched"
        fail "there is no crate $CRATE $VERSION to be had"
      }
      cp -R "$CARGO_HOME"/registry/src/*/"$CRATE-$VERSION" /build/tree
      ;;
  esac
}

# What cargo is told where the sources have a lock file.
locked() {
  test ! -e Cargo.lock || echo --locked
}

fetch_dependencies() {
  case $SYSTEM in
    go)
      use_go "$(sources)"
      go_here "$(sources)" "$MODULE"
      if ! test -d vendor && test -e go.mod; then
        # shellcheck disable=SC2086
        go list -deps -tags seccomp $PACKAGE >/build/dependencies || fail "the modules that it needs cannot be had"
      fi
      ;;
    cargo)
      use_cargo
      cd /build/tree
      # shellcheck disable=SC2046
      cargo fetch $(locked) || fail "the crates that it needs cannot be had"
      ;;
  esac
}

build_program() {
  export COMMIT
  case $SYSTEM in
    go)
      use_go "$(sources)"
      export GOPROXY=off
      go_here "$(sources)" "$MODULE"
      ;;
    cargo)
      use_cargo
      export CARGO_NET_OFFLINE=true
      cd /build/tree
      rm -rf target
      ln -s "$cache/target" target
      ;;
    *) cd /build/tree ;;
  esac
  (set -e && eval "$RECIPE")
  mkdir -p /build/out
  test -f "$PROGRAM" || fail "nothing was built at $PROGRAM"
  cp -L "$PROGRAM" /build/out/program
  chmod 755 /build/out/program
}
