# purpose: Docker, from the distribution
# inputs: PACKAGES_DOCKER
# check: docker --version && have dockerd
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_DOCKER
start_unit docker.service
