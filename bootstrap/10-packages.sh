# purpose: the programs that the lab needs (an image built from packages already has them)
# inputs: PACKAGES_LAB
# check: are_installed "$PACKAGES_LAB"
# shellcheck disable=SC2086
install_packages $PACKAGES_LAB
