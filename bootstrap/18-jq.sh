# purpose: read JSON in shell scripts
# inputs: PACKAGES_JQ
# check: jq --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_JQ
