# purpose: containerd, from the distribution
# inputs: PACKAGES_CONTAINERD
# check: containerd --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_CONTAINERD
start_unit containerd.service
