# purpose: Python, which the suites are written in
# inputs: PACKAGES_PYTHON
# check: have python3
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_PYTHON
