# purpose: JSON in shell scripts, which suites are made of
# inputs: PACKAGES_JQ
# check: jq --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_JQ
