# purpose: runc: the distribution's, upstream's program, or built from source
# inputs: RUNC_FROM RUNC_URL RUNC_REF RUNC_SHA256 RUNC_SUMS PACKAGES_RUNC
# check: runc --version
# needs: none
# builds: toolchain libseccomp go
if test "$RUNC_FROM" = package; then
  # shellcheck disable=SC2086
  install_packages $PACKAGES_RUNC
  withdraw /usr/local/sbin/runc
else
  take runc "$RUNC_FROM" "$RUNC_URL" "$RUNC_REF" "$RUNC_SHA256" "$RUNC_SUMS"
  if test -e "$taken/program"; then
    publish "$taken/program" /usr/local/sbin/runc
    rm -rf "$taken"
  else
    go_here "$taken/tree" github.com/opencontainers/runc
    # Since 1.5 libpathrs is built in unless that is refused; few distributions have it.
    if grep -q libpathrs Makefile && ! pkg-config --exists pathrs; then
      export RUNC_BUILDTAGS=-libpathrs
    fi
    make runc
    publish runc /usr/local/sbin/runc
    keep runc
  fi
fi
