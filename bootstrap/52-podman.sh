# purpose: podman, from the distribution
# inputs: PACKAGES_PODMAN
# check: podman --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_PODMAN
