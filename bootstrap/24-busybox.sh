# purpose: busybox, which the containers of the spec suite run
# inputs: PACKAGES_BUSYBOX
# check: have busybox
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_BUSYBOX
