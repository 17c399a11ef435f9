# purpose: the programs that the lab needs, where the system lacks them (an image made from packages has them)
# inputs: PACKAGES_LAB
# check: are_installed "$PACKAGES_LAB"
# shellcheck disable=SC2086
install_packages $PACKAGES_LAB
