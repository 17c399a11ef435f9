# purpose: crun: the distribution's, or upstream's program
# inputs: CRUN_FROM CRUN_URL CRUN_REF CRUN_SHA256 CRUN_SUMS PACKAGES_CRUN
# check: crun --version
# needs: none
if test "$CRUN_FROM" = package; then
  # shellcheck disable=SC2086
  install_packages $PACKAGES_CRUN
  withdraw /usr/local/bin/crun
else
  take crun "$CRUN_FROM" "$CRUN_URL" "$CRUN_REF" "$CRUN_SHA256" "$CRUN_SUMS"
  test -e "$taken/program" || fail "$CRUN_URL is not a program"
  publish "$taken/program" /usr/local/bin/crun
  rm -rf "$taken"
fi
