# purpose: the programs that runc's integration tests call, beside those of any system
# inputs: PACKAGES_TEST_PROGRAMS
# check: have jq gawk setpriv
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_TEST_PROGRAMS
